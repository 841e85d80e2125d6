"""The jobs: one per backfill, the dry runs, and everything in order.

They take names in their run config (`workspaces: [demo]`), which a terminal can write and a page can
edit, and run the assets' own steps as ops; what they do is recorded as the assets' partitions. They are
not asset jobs: those cannot span different partitions, and a backfill from the page of one would do
its first partition only. Backfills by partition belong to the pages of the assets.

Where the executor is one of many machines, jobs of the same names and configuration share each backfill
out among steps (spread.py).
"""

from typing import Final

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from kb_pipeline.orchestration.assets import DatabaseParam, PricesParam
from kb_pipeline.orchestration.checks import DRY_RUNS
from kb_pipeline.orchestration.runs import run_op
from kb_pipeline.orchestration.settings import (
    BackfillSettings,
    CandidacySettings,
    OhlcvSettings,
    RegimeSettings,
    WorkspaceSettings,
)
from kb_pipeline.orchestration.spread import Steps, job_of
from kb_pipeline.orchestration.steps import ATTRIBUTION, CANDIDACY, OHLCV, REGIMES, TRIALS, UPLIFT

Job = dg.JobDefinition | UnresolvedAssetJobDefinition

_AFTER: Final = {"after": dg.In(dg.Nothing)}


@dg.op(name="prices", out=dg.Out(dg.Nothing))
def _prices(
    context: dg.OpExecutionContext, config: OhlcvSettings, database: DatabaseParam, prices: PricesParam
) -> None:
    """Normalise price files."""
    run_op(context, OHLCV, config, database, prices)


@dg.op(name="regimes", ins=_AFTER, out=dg.Out(dg.Nothing))
def _regimes(
    context: dg.OpExecutionContext, config: RegimeSettings, database: DatabaseParam, prices: PricesParam
) -> None:
    """Backfill regimes."""
    run_op(context, REGIMES, config, database, prices)


@dg.op(name="candidacy", ins=_AFTER, out=dg.Out(dg.Nothing))
def _candidacy(
    context: dg.OpExecutionContext, config: CandidacySettings, database: DatabaseParam, prices: PricesParam
) -> None:
    """Backfill candidacy."""
    run_op(context, CANDIDACY, config, database, prices)


@dg.op(name="attribution", ins=_AFTER, out=dg.Out(dg.Nothing))
def _attribution(
    context: dg.OpExecutionContext, config: BackfillSettings, database: DatabaseParam, prices: PricesParam
) -> None:
    """Backfill attribution."""
    run_op(context, ATTRIBUTION, config, database, prices)


@dg.op(name="trials", ins=_AFTER, out=dg.Out(dg.Nothing))
def _trials(
    context: dg.OpExecutionContext, config: BackfillSettings, database: DatabaseParam, prices: PricesParam
) -> None:
    """Ingest trials."""
    run_op(context, TRIALS, config, database, prices)


@dg.op(name="uplift", ins=_AFTER, out=dg.Out(dg.Nothing))
def _uplift(
    context: dg.OpExecutionContext, config: WorkspaceSettings, database: DatabaseParam, prices: PricesParam
) -> None:
    """Measure uplift."""
    run_op(context, UPLIFT, config, database, prices)


@dg.job
def normalise_prices() -> None:
    """Read, check and normalise price files."""
    _prices()


@dg.job
def backfill_regime() -> None:
    """Compute the regime of each run's own out-of-sample window."""
    _regimes()


@dg.job
def backfill_candidacy() -> None:
    """Put excluded runs through the quality gate."""
    _candidacy()


@dg.job
def backfill_attribution() -> None:
    """Attribute a regime to completed tunes."""
    _attribution()


@dg.job
def ingest_trials() -> None:
    """Bring the knowledge base in step with its sources."""
    _trials()


@dg.job
def measure_uplift() -> None:
    """Measure what choosing parameters by regime is worth."""
    _uplift()


@dg.job
def everything() -> None:
    """Prices, regimes, candidacy, attribution, trials and uplift of the workspaces named, in order."""
    regimes = _regimes(after=_prices())
    attribution = _attribution(after=regimes)
    _trials(after=[_candidacy(after=regimes), attribution])
    _uplift(after=attribution)


dry_run_reports = dg.define_asset_job(
    "dry_run_reports",
    dg.AssetSelection.checks(*DRY_RUNS),
    description="Say what each backfill would do; write nothing.",
)

_WHOLE: Final = (
    normalise_prices,
    backfill_regime,
    backfill_candidacy,
    backfill_attribution,
    ingest_trials,
    measure_uplift,
)
_STEPS: Final[Steps] = {
    "prices": (OHLCV, OhlcvSettings, ()),
    "regimes": (REGIMES, RegimeSettings, ("prices",)),
    "candidacy": (CANDIDACY, CandidacySettings, ("regimes",)),
    "attribution": (ATTRIBUTION, BackfillSettings, ("regimes",)),
    "trials": (TRIALS, BackfillSettings, ("candidacy", "attribution")),
    "uplift": (UPLIFT, WorkspaceSettings, ("attribution",)),
}
"""The ops of `everything`, in order, each with those that come before it."""


def jobs(lanes: int) -> list[Job]:
    """Return the jobs; where there are lanes, with each backfill shared out among so many steps."""
    if not lanes:
        return [*_WHOLE, dry_run_reports, everything]
    alone = [
        job_of(job.name, job.description or "", {name: step}, lanes)
        for job, (name, step) in zip(_WHOLE, _STEPS.items(), strict=True)
    ]
    together = job_of(everything.name, everything.description or "", _STEPS, lanes)
    return [*alone, dry_run_reports, together]


JOB_NAMES: Final = frozenset(job.name for job in jobs(0))
