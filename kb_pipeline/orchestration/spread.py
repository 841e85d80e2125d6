"""A step shared out: one op plans its parts, lanes work through them wherever they run, one op sums up.

Lanes take parts by leases in the database, so it does not matter which executor starts them, when, or on
which machine; what a killed lane leaves another one takes up. An executor may start an op although one
before it failed; the op that plans refuses then.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import dagster as dg

from kb_pipeline.errors import KbPipelineError
from kb_pipeline.orchestration.executor import DEFAULT_PART_ROWS, PART_ROWS_VARIABLE, positive
from kb_pipeline.orchestration.metadata import Metadata, step_lines, table
from kb_pipeline.orchestration.partitions import split_pair
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.orchestration.runs import MAX_RETRIES, named_failures, prepare, record, worth_retrying
from kb_pipeline.orchestration.steps import Step, Surroundings
from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage import backfill_parts
from kb_pipeline.storage.backfill_parts import Lease, Outcome, Part, Scope
from kb_pipeline.storage.orchestration import find_workspace

AFTER: Final = {"after": dg.In(dg.Nothing)}
ENDED: Final = dg.RetryPolicy(max_retries=MAX_RETRIES)
"""Begins a step again whose process was killed, where the executor asks for it, as Kubernetes does."""

PutOps = Callable[[list[Any]], Any]
"""Puts a step's ops into a job, after others, and returns the last of them."""

_SHARED_KINDS: Final = {
    "regime_snapshots": BackfillKind.REGIME,
    "candidacy_decisions": BackfillKind.CANDIDACY,
    "tune_regime_attribution": BackfillKind.ATTRIBUTION,
}
"""Of which assets a partition can be cut into ranges of rows. The others are done a partition at a time."""


def spread_ops(name: str, step: Step, settings: type[dg.Config], before: Sequence[str], lanes: int) -> PutOps:
    """Return what puts a step into a job, shared out among lanes.

    The op that plans has the step's own name and takes its configuration; `before` are the names of the
    steps that must have succeeded.
    """

    shape: dict[str, Any] = {"ins": AFTER, "out": dg.Out(dg.Nothing), "retry_policy": ENDED}

    @dg.op(name=name, config_schema=settings.to_fields_dict(), **shape)
    def plan(
        context: dg.OpExecutionContext,
        database: dg.ResourceParam[Database],
        prices: dg.ResourceParam[Prices],
    ) -> None:
        """Write down the parts."""
        _refuse_after_failure(context, before)
        _plan(context, step, name, settings(**context.op_config), database, prices)

    def lane(number: int) -> dg.OpDefinition:
        @dg.op(name=f"{name}_lane_{number}", **shape)
        def work(
            context: dg.OpExecutionContext,
            database: dg.ResourceParam[Database],
            prices: dg.ResourceParam[Prices],
        ) -> None:
            """Work on one part after the other until none is left."""
            _work(context, step, name, settings, database, prices)

        return work

    @dg.op(name=f"{name}_done", **shape)
    def done(context: dg.OpExecutionContext, database: dg.ResourceParam[Database]) -> None:
        """See that every part is done, and record what was shared out."""
        _sum_up(context, step, name, database)

    lane_ops = [lane(number) for number in range(1, lanes + 1)]

    def put(after: list[Any]) -> Any:
        planned = plan(after) if after else plan()
        return done([one(planned) for one in lane_ops])

    return put


def _plan_name(context: dg.OpExecutionContext, name: str) -> str:
    return f"{context.run.run_id} {name}"


def _refuse_after_failure(context: dg.OpExecutionContext, before: Sequence[str]) -> None:
    records = context.instance.get_records_for_run(
        context.run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE
    ).records
    failed = {str(record.event_log_entry.step_key) for record in records}
    ops = {f"{name}{suffix}" for name in before for suffix in ("", "_done")}
    if failed & ops:
        raise dg.Failure(
            f"{', '.join(sorted(failed & ops))} failed, so this did not begin.", allow_retries=False
        )


def _plan(
    context: dg.OpExecutionContext,
    step: Step,
    name: str,
    config: Any,
    database: Database,
    prices: Prices,
) -> None:
    prepare(context, database, prices)
    with named_failures(context), database.session(f"{step.asset} plan", context.run.run_id) as connection:
        around = Surroundings(connection, prices.of_one_run(), plotted=False)
        rows = positive(PART_ROWS_VARIABLE, DEFAULT_PART_ROWS)
        backfill_parts.write_plan(
            connection,
            _plan_name(context, name),
            config.model_dump(),
            lambda: [
                part
                for key in step.named_keys(around, config)
                for part in _parts(around, step, key, config, rows)
            ],
        )


def _parts(around: Surroundings, step: Step, key: str, config: Any, rows: int) -> list[Part]:
    kind = _SHARED_KINDS.get(step.asset)
    if kind is None:
        return [Part(key)]
    name, symbol = split_pair(key) if kind == BackfillKind.REGIME else (key, None)
    workspace = find_workspace(around.connection, name)
    scope = Scope(kind, workspace.id, symbol)
    if config.limit is not None:
        # A limit is a budget for the rows of a partition together.
        return [Part(key, scope=scope)]
    since = config.scan()["since"]
    return backfill_parts.cut(around.connection, key, scope, since=since, rows=rows)


def _work(
    context: dg.OpExecutionContext,
    step: Step,
    name: str,
    settings: type[dg.Config],
    database: Database,
    prices: Prices,
) -> None:
    plan = _plan_name(context, name)
    with named_failures(context), database.session(step.asset, context.run.run_id) as connection:
        planned = backfill_parts.plan_settings(connection, plan)
        if planned is None:
            return  # nothing to do, or no plan; the op that sums up tells which
        around = Surroundings(connection, prices.of_one_run(), plotted=False)
        config = settings(**planned)
        for lease in backfill_parts.leases(connection, plan):
            _work_on(context, step, around, config, lease)


def _work_on(
    context: dg.OpExecutionContext, step: Step, around: Surroundings, config: Any, lease: Lease
) -> None:
    part = lease.span if step.asset in _SHARED_KINDS else None
    try:
        metadata = step.work(around._replace(part=part), config)(lease.key)
    except KbPipelineError as error:
        context.log.error(f"{lease.key}: {error}")  # noqa: TRY400 - the message says it all
        lease.fail(error, final=not worth_retrying(error))
        return
    lease.finish(_counts(metadata))
    if lease.siblings == 1:
        record(context, step, {lease.key: metadata})


def _counts(metadata: Metadata) -> dict[str, int]:
    return {name: value for name, value in metadata.items() if type(value) is int}


def _sum_up(context: dg.OpExecutionContext, step: Step, name: str, database: Database) -> None:
    with named_failures(context), database.session(f"{step.asset} sum", context.run.run_id) as connection:
        outcomes = backfill_parts.outcome(connection, _plan_name(context, name))
    if not outcomes:
        _refuse_after_failure(context, [name])
    of_key: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        of_key.setdefault(outcome.key, []).append(outcome)
    whole = {key: _summed(parts) for key, parts in of_key.items() if all(part.done for part in parts)}
    if whole:
        context.log.info(step_lines(step.asset, whole, named=False))
    # A partition of one part was recorded by whoever did it, with all there is to show.
    record(context, step, {key: summed for key, summed in whole.items() if len(of_key[key]) > 1})
    left = [outcome for outcome in outcomes if not outcome.done]
    if left:
        raise dg.Failure(
            f"{left[0].key}: {left[0].error or 'its process ended again and again'}\n"
            f"{len(left)} of {len(outcomes)} parts are not done. Run it again to go on.",
            metadata={"failed": table({"partition": it.key, "why": str(it.error)} for it in left)},
            allow_retries=False,
        )


def _summed(parts: Sequence[Outcome]) -> Metadata:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part.result or {})
    return {**total, "parts": len(parts), "processes": len({part.holder for part in parts})}
