"""The jobs: one per backfill, the dry runs, and everything, each step after those it builds on.

They take names in their run config (`workspaces: [demo]`), which a terminal can write and a page can
edit, and run the assets' own steps as ops; what they do is recorded as the assets' partitions. They are
not asset jobs: those cannot span different partitions, and a backfill from the page of one would do
its first partition only. Backfills by partition belong to the pages of the assets.

Where the executor is one of many machines, jobs of the same names and configuration share each backfill
out among steps (spread.py).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

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
from kb_pipeline.orchestration.spread import AFTER, PutOps, spread_ops
from kb_pipeline.orchestration.steps import ATTRIBUTION, CANDIDACY, OHLCV, REGIMES, TRIALS, UPLIFT, Step

Job = dg.JobDefinition | UnresolvedAssetJobDefinition


class _Act(NamedTuple):
    """A step as an op: its settings, the ops it comes after, and the job that does it alone."""

    step: Step
    settings: type[dg.Config]
    after: tuple[str, ...]
    job: str
    description: str


_ACTS: Final = {
    "prices": _Act(
        OHLCV,
        OhlcvSettings,
        after=(),
        job="normalise_prices",
        description="Read, check and normalise price files.",
    ),
    "regimes": _Act(
        REGIMES,
        RegimeSettings,
        # Not after prices: it reads the files itself, and one that no run needs must not hold it up.
        after=(),
        job="backfill_regime",
        description="Compute the regime of each run's own out-of-sample window.",
    ),
    "candidacy": _Act(
        CANDIDACY,
        CandidacySettings,
        after=("regimes",),
        job="backfill_candidacy",
        description="Put excluded runs through the quality gate.",
    ),
    "attribution": _Act(
        ATTRIBUTION,
        BackfillSettings,
        after=("regimes",),
        job="backfill_attribution",
        description="Attribute a regime to completed tunes.",
    ),
    "trials": _Act(
        TRIALS,
        BackfillSettings,
        after=("candidacy", "attribution"),
        job="ingest_trials",
        description="Bring the knowledge base in step with its sources.",
    ),
    "uplift": _Act(
        UPLIFT,
        WorkspaceSettings,
        after=("attribution",),
        job="measure_uplift",
        description="Measure what choosing parameters by regime is worth.",
    ),
}
"""The ops of `everything` by name, each below those it comes after."""

_EVERYTHING: Final = (
    "Prices, and of the workspaces named: regimes, then candidacy and attribution, then trials (after both) "
    "and uplift (after attribution). A price file that is refused fails the run, but holds up only the "
    "steps that need it."
)


def _one_op(name: str, step: Step, settings: type[dg.Config]) -> PutOps:
    """Return what puts a step into a job as a single op, which runs only if those before it succeeded."""

    @dg.op(name=name, ins=AFTER, out=dg.Out(dg.Nothing), config_schema=settings.to_fields_dict())
    def op(context: dg.OpExecutionContext, database: DatabaseParam, prices: PricesParam) -> None:
        run_op(context, step, settings(**context.op_config), database, prices)

    return lambda after: op(after) if after else op()


def _job_of(
    name: str, description: str, names: Iterable[str], puts: Mapping[str, PutOps]
) -> dg.JobDefinition:
    """Return a job of the steps named, in their order."""

    @dg.job(name=name, description=description)
    def job() -> None:
        ended: dict[str, Any] = {}
        for op_name in names:
            ended[op_name] = puts[op_name]([ended[it] for it in _ACTS[op_name].after if it in ended])

    return job


dry_run_reports = dg.define_asset_job(
    "dry_run_reports",
    dg.AssetSelection.checks(*DRY_RUNS),
    description="Say what each backfill would do; write nothing.",
)


def jobs(lanes: int) -> list[Job]:
    """Return the jobs; where there are lanes, with each backfill shared out among so many steps."""
    # An op is made once and put into several jobs: its name may stand for one thing only.
    puts = {
        name: spread_ops(name, act.step, act.settings, act.after, lanes)
        if lanes
        else _one_op(name, act.step, act.settings)
        for name, act in _ACTS.items()
    }
    alone = [_job_of(act.job, act.description, [name], puts) for name, act in _ACTS.items()]
    return [*alone, dry_run_reports, _job_of("everything", _EVERYTHING, _ACTS, puts)]


JOB_NAMES: Final = frozenset(job.name for job in jobs(0))
