"""The sensors."""

import dagster as dg

SENSORS: tuple[dg.SensorDefinition, ...] = ()
