"""The jobs: one per backfill, the dry runs, and everything in order.

They take names in their run config (`workspaces: [demo]`), which a terminal can write and a page can
edit, and run the assets' own steps as ops; what they do is recorded as the assets' partitions. They are
not asset jobs: those cannot span different partitions, and a backfill from the page of one would do
its first partition only. Backfills by partition belong to the pages of the assets.
"""

from typing import Final

import dagster as dg

from kb_pipeline.orchestration.assets import DatabaseParam, PricesParam
from kb_pipeline.orchestration.checks import DRY_RUNS
from kb_pipeline.orchestration.runs import run_op
from kb_pipeline.orchestration.settings import (
    BackfillSettings,
    CandidacySettings,
    OhlcvSettings,
    RegimeSettings,
)
from kb_pipeline.orchestration.steps import ATTRIBUTION, CANDIDACY, OHLCV, REGIMES, TRIALS

_AFTER: Final = {"after": dg.In(dg.Nothing)}


@dg.op(name="ohlcv", out=dg.Out(dg.Nothing))
def _ohlcv(
    context: dg.OpExecutionContext, config: OhlcvSettings, database: DatabaseParam, prices: PricesParam
) -> None:
    """Normalise price files."""
    run_op(context, OHLCV, config, database, prices)


@dg.op(name="regime_snapshots", ins=_AFTER, out=dg.Out(dg.Nothing))
def _regime_snapshots(
    context: dg.OpExecutionContext, config: RegimeSettings, database: DatabaseParam, prices: PricesParam
) -> None:
    """Backfill regimes."""
    run_op(context, REGIMES, config, database, prices)


@dg.op(name="candidacy_decisions", ins=_AFTER, out=dg.Out(dg.Nothing))
def _candidacy_decisions(
    context: dg.OpExecutionContext, config: CandidacySettings, database: DatabaseParam, prices: PricesParam
) -> None:
    """Backfill candidacy."""
    run_op(context, CANDIDACY, config, database, prices)


@dg.op(name="tune_regime_attribution", ins=_AFTER, out=dg.Out(dg.Nothing))
def _tune_regime_attribution(
    context: dg.OpExecutionContext, config: BackfillSettings, database: DatabaseParam, prices: PricesParam
) -> None:
    """Backfill attribution."""
    run_op(context, ATTRIBUTION, config, database, prices)


@dg.op(name="kb_trials", ins=_AFTER, out=dg.Out(dg.Nothing))
def _kb_trials(
    context: dg.OpExecutionContext, config: BackfillSettings, database: DatabaseParam, prices: PricesParam
) -> None:
    """Ingest trials."""
    run_op(context, TRIALS, config, database, prices)


@dg.job
def normalise_prices() -> None:
    """Read, check and normalise price files."""
    _ohlcv()


@dg.job
def backfill_regime() -> None:
    """Compute the regime of each run's own out-of-sample window."""
    _regime_snapshots()


@dg.job
def backfill_candidacy() -> None:
    """Put excluded runs through the quality gate."""
    _candidacy_decisions()


@dg.job
def backfill_attribution() -> None:
    """Attribute a regime to completed tunes."""
    _tune_regime_attribution()


@dg.job
def ingest_trials() -> None:
    """Bring the knowledge base in step with its sources."""
    _kb_trials()


@dg.job
def everything() -> None:
    """Prices, regimes, candidacy, attribution and trials of the workspaces named, in order."""
    regimes = _regime_snapshots(after=_ohlcv())
    _kb_trials(after=[_candidacy_decisions(after=regimes), _tune_regime_attribution(after=regimes)])


dry_run_reports = dg.define_asset_job(
    "dry_run_reports",
    dg.AssetSelection.checks(*DRY_RUNS),
    description="Say what each backfill would do; write nothing.",
)

JOBS: Final = (
    normalise_prices,
    backfill_regime,
    backfill_candidacy,
    backfill_attribution,
    ingest_trials,
    dry_run_reports,
    everything,
)
