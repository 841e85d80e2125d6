"""How a run goes through its partitions: one after the other, each accounted for under its own name.

A partition that fails does not stop the others; the run then fails, naming it, with the others
recorded. Mistakes that a repetition cannot mend are not retried.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

import dagster as dg
import psycopg
from dagster._core.events import DagsterEvent, DagsterEventBatchMetadata

from kb_pipeline.errors import AlreadyRunningError, ConflictsRemainError, DatabaseError, KbPipelineError
from kb_pipeline.orchestration.metadata import Metadata, counted, step_lines, table
from kb_pipeline.orchestration.partitions import asked_keys
from kb_pipeline.orchestration.plots import PLOTTED_PARTITIONS
from kb_pipeline.orchestration.resources import Database, Prices, sync_partitions
from kb_pipeline.orchestration.steps import Step, Surroundings, Work

Context = dg.AssetExecutionContext | dg.OpExecutionContext

MAX_RETRIES: Final = 3
FIRST_RETRY_AFTER_SECONDS: Final = 5
"""Waits of 5, 10 and 20 seconds outlast a short backfill of the workspace, or the database's restart."""

_WORTH_RETRYING: Final = (AlreadyRunningError, ConflictsRemainError, DatabaseError, psycopg.OperationalError)


def worth_retrying(error: BaseException) -> bool:
    """Return whether a repetition can mend an error."""
    return isinstance(error, _WORTH_RETRYING)


def run_asset(
    context: dg.AssetExecutionContext, step: Step, config: Any, database: Database, prices: Prices
) -> dg.MaterializeResult[None]:
    """Do a step for the partitions of the run.

    Raises:
        Failure: A partition failed, or Dagster handed over fewer than were asked for.
    """
    prepare(context, database, prices)
    done = _run_step(context, step, config, database, prices, asked_keys(context))
    _describe(context, done)
    return dg.MaterializeResult()


def _describe(context: dg.AssetExecutionContext, done: Mapping[str, Metadata]) -> None:
    """Add to each partition's materialization its metadata.

    Not by add_asset_metadata, which reads all keys of the run again for every one of them. What it writes
    to, `_metadata_accumulator`, is Dagster's own: where an upgrade moves it, partitions lack their numbers,
    and `test_a_whole_workspace_is_one_run_with_two_events_a_pair` fails.
    """
    step = context.get_step_execution_context()
    for key, metadata in done.items():
        step._metadata_accumulator = step._metadata_accumulator.with_additional_asset_metadata(
            context.asset_key, key, metadata
        )


def run_op(
    context: dg.OpExecutionContext, step: Step, config: Any, database: Database, prices: Prices
) -> None:
    """Do a step for the partition of the run, else for those its configuration names, and record them."""
    prepare(context, database, prices)
    asked = [context.partition_key] if context.has_partition_key else None
    record(context, step, _run_step(context, step, config, database, prices, asked))


def prepare(context: Context, database: Database, prices: Prices) -> None:
    """Register the partitions there are."""
    with named_failures(context):
        sync_partitions(context.instance, database, prices, remove=False)


def _run_step(
    context: Context, step: Step, config: Any, database: Database, prices: Prices, asked: list[str] | None
) -> dict[str, Metadata]:
    with named_failures(context), database.session(step.asset, context.run.run_id) as connection:
        around = Surroundings(connection, prices.of_one_run(), plotted=False)
        keys = asked or step.named_keys(around, config)
        around = around._replace(plotted=len(keys) <= PLOTTED_PARTITIONS)
        return _work_through(context, step, keys, step.work(around, config))


def _work_through(context: Context, step: Step, keys: Sequence[str], work: Work) -> dict[str, Metadata]:
    done: dict[str, Metadata] = {}
    failed: dict[str, KbPipelineError] = {}
    for key in keys:
        try:
            done[key] = work(key)
        except KbPipelineError as error:
            failed[key] = error
            context.log.error(f"{key}: {error}")  # noqa: TRY400 - the message says it all
    if done:
        # Once for all: each call is a row of the event log. What an op records names its partition itself.
        named = isinstance(context, dg.AssetExecutionContext)
        context.log.info(step_lines(step.asset, done, named=named))
    if failed:
        record(context, step, done)
        worth_it = [error for error in failed.values() if worth_retrying(error)]
        if worth_it and context.retry_number < MAX_RETRIES:
            raise worth_it[0]
        raise _failure(failed, len(done))
    return done


def _failure(failed: Mapping[str, KbPipelineError], done: int) -> dg.Failure:
    first = next(iter(failed))
    others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    return dg.Failure(
        f"{first}: {failed[first]}\n{first}{others} did not succeed; {done} partitions did and are recorded.",
        metadata={"failed": table({"partition": key, "why": str(why)} for key, why in failed.items())},
    )


@contextmanager
def named_failures(context: Context) -> Iterator[None]:
    """Show an error of ours by its message; ask for a repetition where one can help, and only there."""
    try:
        yield
    except _WORTH_RETRYING as error:
        wait = FIRST_RETRY_AFTER_SECONDS * 2**context.retry_number
        raise dg.RetryRequested(max_retries=MAX_RETRIES, seconds_to_wait=wait) from error
    except KbPipelineError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def record(context: Context, step: Step, done: Mapping[str, Metadata]) -> None:
    """Tell Dagster of partitions that are done, in one write as it does for an asset's own.

    As log_event does it, which writes them one by one. What it appends to, `_events`, is Dagster's own:
    where an upgrade moves it, whoever executes the job does not hear of them, and
    `test_the_dry_runs_count_what_the_next_run_does_and_write_nothing` fails.
    """
    op = context.op_execution_context if isinstance(context, dg.AssetExecutionContext) else context
    batch, last = str(uuid4()), len(done) - 1
    for number, (key, metadata) in enumerate(done.items()):
        told = DagsterEvent.asset_materialization(
            op.get_step_execution_context(),
            dg.AssetMaterialization(
                step.asset, partition=key, metadata=metadata, description=f"{key}: {counted(metadata)}"
            ),
            DagsterEventBatchMetadata(batch, is_end=number == last),
        )
        op._events.append(told)
