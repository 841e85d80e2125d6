"""The assets: what the project keeps, of which workspaces and symbols, and what each is made from.

Bodies only name their step. The platform's own tables stand in the graph as external assets.
"""

import warnings
from typing import Final

import dagster as dg

from kb_pipeline.orchestration.partitions import PAIRS, SYMBOLS, WORKSPACES
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.orchestration.runs import run_asset
from kb_pipeline.orchestration.settings import (
    BackfillSettings,
    CandidacySettings,
    OhlcvSettings,
    RegimeSettings,
    WorkspaceSettings,
)
from kb_pipeline.orchestration.steps import ATTRIBUTION, CANDIDACY, OHLCV, REGIMES, TRIALS, UPLIFT
from kb_pipeline.rules import REGIME_SCHEMA_VERSION, TAG_RULESET_ID

OWNERS: Final = ["team:quant-research"]

DatabaseParam = dg.ResourceParam[Database]
PricesParam = dg.ResourceParam[Prices]

BACKTEST_RUNS: Final = dg.AssetSpec(
    "backtest_runs",
    description="Backtests, written by the platform. Test variants wait here for a regime and a verdict.",
    group_name="platform",
    kinds={"postgres", "table"},
    owners=OWNERS,
    partitions_def=WORKSPACES,
)
BACKTEST_TUNES: Final = dg.AssetSpec(
    "backtest_tunes",
    description="Parameter searches of the platform, which writes them, with their trials.",
    group_name="platform",
    kinds={"postgres", "table"},
    owners=OWNERS,
    partitions_def=WORKSPACES,
)
EXTERNAL_ASSETS: Final = (BACKTEST_RUNS, BACKTEST_TUNES)

# The one beta interface in use, without which each partition is a run of its own.
warnings.filterwarnings("ignore", "Parameter `backfill_policy`", dg.BetaWarning)
# A hundred partitions in one run do not cost a hundred process starts.
_ONE_RUN: Final = dg.BackfillPolicy.single_run()


@dg.asset(
    partitions_def=SYMBOLS,
    backfill_policy=_ONE_RUN,
    group_name="prices",
    kinds={"pandas", "parquet"},
    owners=OWNERS,
    tags={"kb/reads": "files"},
    code_version="1",
)
def ohlcv(
    context: dg.AssetExecutionContext, config: OhlcvSettings, database: DatabaseParam, prices: PricesParam
) -> dg.MaterializeResult[None]:
    """Price files, checked and normalised to Parquet: one symbol, UTC bars, oldest first."""
    return run_asset(context, OHLCV, config, database, prices)


@dg.asset(
    partitions_def=PAIRS,
    deps=[ohlcv, BACKTEST_RUNS],
    backfill_policy=_ONE_RUN,
    group_name="regimes",
    kinds={"numpy", "postgres"},
    owners=OWNERS,
    tags={"kb/writes": "backtest_runs"},
    code_version=REGIME_SCHEMA_VERSION,
)
def regime_snapshots(
    context: dg.AssetExecutionContext, config: RegimeSettings, database: DatabaseParam, prices: PricesParam
) -> dg.MaterializeResult[None]:
    """The market regime of each run's own out-of-sample window, written to `backtest_runs.regime_oos`."""
    return run_asset(context, REGIMES, config, database, prices)


@dg.asset(
    partitions_def=WORKSPACES,
    deps=[regime_snapshots, BACKTEST_RUNS],
    backfill_policy=_ONE_RUN,
    group_name="knowledge",
    kinds={"postgres"},
    owners=OWNERS,
    tags={"kb/writes": "backtest_runs"},
    code_version="1",
)
def candidacy_decisions(
    context: dg.AssetExecutionContext, config: CandidacySettings, database: DatabaseParam, prices: PricesParam
) -> dg.MaterializeResult[None]:
    """Runs put through the quality gate: those that pass become candidates.

    Of the others nothing is stored: their reasons are counted in the report, and looked for again next time.
    """
    return run_asset(context, CANDIDACY, config, database, prices)


@dg.asset(
    partitions_def=WORKSPACES,
    deps=[regime_snapshots, BACKTEST_TUNES],
    backfill_policy=_ONE_RUN,
    group_name="regimes",
    kinds={"postgres"},
    owners=OWNERS,
    tags={"kb/writes": "backtest_tunes"},
    code_version=TAG_RULESET_ID,
)
def tune_regime_attribution(
    context: dg.AssetExecutionContext, config: BackfillSettings, database: DatabaseParam, prices: PricesParam
) -> dg.MaterializeResult[None]:
    """The regime each completed tune was won in, with its best out-of-sample score and a baseline."""
    return run_asset(context, ATTRIBUTION, config, database, prices)


@dg.asset(
    partitions_def=WORKSPACES,
    deps=[candidacy_decisions, tune_regime_attribution],
    backfill_policy=_ONE_RUN,
    group_name="knowledge",
    kinds={"postgres", "table"},
    owners=OWNERS,
    tags={"kb/writes": "kb_trials"},
    code_version="1",
)
def kb_trials(
    context: dg.AssetExecutionContext, config: BackfillSettings, database: DatabaseParam, prices: PricesParam
) -> dg.MaterializeResult[None]:
    """The knowledge base: one row per trial that may serve a recommendation."""
    return run_asset(context, TRIALS, config, database, prices)


@dg.asset(
    partitions_def=WORKSPACES,
    deps=[tune_regime_attribution],
    backfill_policy=_ONE_RUN,
    group_name="knowledge",
    kinds={"numpy", "postgres", "table"},
    owners=OWNERS,
    tags={"kb/writes": "kb_regime_uplift"},
    code_version="1",
)
def regime_uplift(
    context: dg.AssetExecutionContext, config: WorkspaceSettings, database: DatabaseParam, prices: PricesParam
) -> dg.MaterializeResult[None]:
    """What choosing parameters by regime is worth over not doing so, and how sure that is."""
    return run_asset(context, UPLIFT, config, database, prices)


ASSETS: Final = (
    ohlcv,
    regime_snapshots,
    candidacy_decisions,
    tune_regime_attribution,
    kb_trials,
    regime_uplift,
)
