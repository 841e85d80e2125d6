"""The Dagster code location: everything Dagster is told, in one place."""

import warnings

import dagster as dg

from kb_pipeline.orchestration.assets import ASSETS, EXTERNAL_ASSETS
from kb_pipeline.orchestration.checks import CHECKS
from kb_pipeline.orchestration.drift import check_regime_drift, daily_drift, regime_drift
from kb_pipeline.orchestration.executor import Execution, chosen_execution, seen_alive
from kb_pipeline.orchestration.jobs import jobs
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.orchestration.sensors import SENSORS


def build_definitions(
    *,
    database: Database | None = None,
    prices: Prices | None = None,
    execution: Execution | None = None,
) -> dg.Definitions:
    """Return the definitions, over another database or other price files, or run elsewhere, where given."""
    execution = execution or chosen_execution()
    database = database or Database()
    with warnings.catch_warnings():
        # Dagster copies sensors through its own beta parameter when it binds resources to them.
        warnings.filterwarnings("ignore", "Parameter `owners`", dg.BetaWarning)
        return dg.Definitions(
            assets=[*ASSETS, *EXTERNAL_ASSETS],
            asset_checks=[*CHECKS, regime_drift],
            jobs=[*jobs(execution.lanes), check_regime_drift],
            schedules=[daily_drift],
            sensors=SENSORS,
            resources={"database": database, "prices": prices or Prices()},
            executor=seen_alive(execution.executor, database),
        )


defs = build_definitions()
