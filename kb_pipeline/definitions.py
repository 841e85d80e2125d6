"""The Dagster code location: everything Dagster is told, in one place."""

import warnings

import dagster as dg

from kb_pipeline.orchestration.assets import ASSETS, EXTERNAL_ASSETS
from kb_pipeline.orchestration.checks import CHECKS
from kb_pipeline.orchestration.drift import check_regime_drift, daily_drift, regime_drift
from kb_pipeline.orchestration.jobs import JOBS
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.orchestration.sensors import SENSORS


def build_definitions(
    *,
    database: Database | None = None,
    prices: Prices | None = None,
    executor: dg.ExecutorDefinition = dg.in_process_executor,
) -> dg.Definitions:
    """Return the definitions, over another database or other price files, or run elsewhere, where given."""
    with warnings.catch_warnings():
        # Dagster copies sensors through its own beta parameter when it binds resources to them.
        warnings.filterwarnings("ignore", "Parameter `owners`", dg.BetaWarning)
        return dg.Definitions(
            assets=[*ASSETS, *EXTERNAL_ASSETS],
            asset_checks=[*CHECKS, regime_drift],
            jobs=[*JOBS, check_regime_drift],
            schedules=[daily_drift],
            sensors=SENSORS,
            resources={"database": database or Database(), "prices": prices or Prices()},
            # A step in a process of its own costs 1.7 s; the steps here share a connection instead.
            executor=executor,
        )


defs = build_definitions()
