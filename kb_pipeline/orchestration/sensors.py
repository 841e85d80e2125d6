"""The sensors: read the state, let sensor_decisions.py decide, request the runs, say what was done."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import dagster as dg
from dagster._core.storage.tags import MAX_RETRIES_TAG

from kb_pipeline.orchestration.assets import (
    ASSETS,
    BACKTEST_RUNS,
    BACKTEST_TUNES,
    DatabaseParam,
    PricesParam,
    tune_regime_attribution,
)
from kb_pipeline.orchestration.drift import check_regime_drift
from kb_pipeline.orchestration.jobs import JOB_NAMES
from kb_pipeline.orchestration.partitions import SYMBOLS, WORKSPACES, is_usable_key, partition_changes
from kb_pipeline.orchestration.resources import Prices
from kb_pipeline.orchestration.sensor_decisions import (
    MAX_KEYS,
    Due,
    Heard,
    Look,
    Past,
    Plan,
    Seen,
    digest_of,
    is_news,
    runs_to_launch,
    silent_runs,
    still_files,
)
from kb_pipeline.storage import activity, orchestration
from kb_pipeline.storage.alerts import send_alert
from kb_pipeline.storage.events import Event, tell
from kb_pipeline.storage.price_files import file_hash, normalised_from

SENSOR_TAG: Final = "kb/sensor"
TARGET_TAG: Final = "kb/target"
DIGEST_TAG: Final = "kb/digest"
WORKSPACE_TAG: Final = "kb/workspace"

PartitionRequest = dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest

_LAUNCHED: Final = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]
_UNFINISHED: Final = [*_LAUNCHED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.CANCELING]


def _say(context: dg.SensorEvaluationContext, sensor: str, says: str) -> None:
    context.log.info(says)
    tell(Event.SENSOR_LOOKED, sensor=sensor, says=says)


def _plan(instance: dg.DagsterInstance, sensor: str, due: list[Due]) -> Plan:
    """Decide about work by what the instance knows of earlier runs over it."""
    unfinished = instance.get_runs(dg.RunsFilter(tags={SENSOR_TAG: sensor}, statuses=_UNFINISHED))
    in_flight = {run.tags.get(TARGET_TAG, "") for run in unfinished}
    return runs_to_launch(due, in_flight, {work.digest: _past(instance, sensor, work.digest) for work in due})


def _past(instance: dg.DagsterInstance, sensor: str, digest: str) -> Past:
    tags: Mapping[str, str] = {SENSOR_TAG: sensor, DIGEST_TAG: digest}
    ended = [run.status for run in instance.get_runs(dg.RunsFilter(tags=tags))]
    failed = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    return Past(ended.count(dg.DagsterRunStatus.SUCCESS), sum(status in failed for status in ended))


def _tags(sensor: str, work: Due) -> dict[str, str]:
    # The next tick asks again for what a run did not do; Dagster's own repetition would be a second one.
    return {SENSOR_TAG: sensor, TARGET_TAG: work.target, DIGEST_TAG: work.digest, MAX_RETRIES_TAG: "0"}


@dg.sensor(
    target=[tune_regime_attribution],
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def completed_tunes(context: dg.SensorEvaluationContext, database: DatabaseParam) -> dg.SensorResult:
    """Attribute tunes that completed: one run a workspace, however many tunes wait."""
    before = Look(*json.loads(context.cursor)) if context.cursor else None
    with database.session("completed_tunes") as connection:
        # Before the look, so that what is written during it is looked at again.
        written = activity.written_rows(connection)
        if not is_news(before, written, time.time()):
            return dg.SensorResult(
                skip_reason="nothing was written since the last look", cursor=context.cursor
            )
        found = [Due(*work) for work in orchestration.due_tunes(connection)]
        living = activity.living_runs(connection)
    # Not left to lost_runs, whose next look may be half a minute away.
    _end_lost(context.instance, {SENSOR_TAG: context.sensor_name}, living)
    named = [work for work in found if is_usable_key(work.target)]
    plan = _plan(context.instance, context.sensor_name, named)
    says = f"found {sum(work.amount for work in found)} tunes; {plan}"
    if len(named) < len(found):
        says += f"; {len(found) - len(named)} workspaces have a slug that can be no partition"
    _say(context, "completed_tunes", says)
    if not plan.launch:
        settled = json.dumps(Look(written, time.time())) if written and not plan.in_flight else ""
        return dg.SensorResult(skip_reason=says, cursor=settled)
    slugs = [request.due.target for request in plan.launch]
    return dg.SensorResult(
        cursor="",
        run_requests=[
            dg.RunRequest(
                run_key=request.run_key,
                partition_key=request.due.target,
                tags={**_tags(context.sensor_name, request.due), WORKSPACE_TAG: request.due.target},
            )
            for request in plan.launch
        ],
        dynamic_partitions_requests=[WORKSPACES.build_add_request(slugs)],
    )


@dg.sensor(
    asset_selection=dg.AssetSelection.assets("backtest_runs", "backtest_tunes"),
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_partitions(
    context: dg.SensorEvaluationContext, database: DatabaseParam, prices: PricesParam
) -> dg.SensorResult:
    """Keep the partitions in step with workspaces and price files; observe the platform's tables."""
    before, look = _kept(context.cursor)
    with database.session("new_partitions") as connection:
        found = orchestration.platform_tables(connection)
    requests, says, look = _partition_requests(context.instance, [it.slug for it in found], prices, look)
    tables = [it for it in found if is_usable_key(it.slug)]
    now = {it.slug: list(it[1:]) for it in tables}
    changed = [it for it in tables if before.get(it.slug) != now[it.slug]]
    says = f"{says}; {len(changed)} of {len(tables)} workspaces changed"
    _say(context, "new_partitions", says)
    return dg.SensorResult(
        dynamic_partitions_requests=requests,
        asset_events=[event for it in changed for event in _observations(it)],
        cursor=json.dumps([now, look]),
        skip_reason=says,
    )


def _kept(cursor: str | None) -> tuple[dict[str, list[Any]], Look | None]:
    """Return the tables as the last tick saw them, and its look at the symbols if that left none to do."""
    kept = json.loads(cursor or "{}")
    tables, look = (kept, None) if isinstance(kept, dict) else kept  # an earlier version's: the tables alone
    return tables, Look(*look) if look else None


def _partition_requests(
    instance: dg.DagsterInstance, slugs: Iterable[str], prices: Prices, before: Look | None
) -> tuple[list[PartitionRequest], str, Look | None]:
    """Return what to ask for, what there is to say, and the look at the symbols if it left none to do."""
    workspaces, says = _requests_of(instance, WORKSPACES, slugs)
    # Before the look, so that what comes during it is looked at again.
    now, state = time.time(), _state_of_symbols(instance, prices)
    if not is_news(before, state, now):
        return workspaces, f"{says}; symbol: none came or went since the last look", before
    symbols, says_more = _requests_of(instance, SYMBOLS, prices.symbols())
    settled = Look(state, now) if state and not symbols else None
    return [*workspaces, *symbols], f"{says}; {says_more}", settled


def _state_of_symbols(instance: dg.DagsterInstance, prices: Prices) -> str | None:
    """Return what changes when a price file or the newest key does: a look at the directory, one key read."""
    files = prices.listing_state()
    newest = instance.get_paginated_dynamic_partitions(str(SYMBOLS.name), limit=1, ascending=False)
    return files and f"{files} {newest.cursor}"


def _requests_of(
    instance: dg.DagsterInstance, kind: dg.DynamicPartitionsDefinition, names: Iterable[str]
) -> tuple[list[PartitionRequest], str]:
    changes = partition_changes(names, instance.get_dynamic_partitions(str(kind.name)))
    add, remove = changes.add[:MAX_KEYS], changes.remove[:MAX_KEYS]
    requests: list[PartitionRequest] = []
    if add:
        requests.append(kind.build_add_request(add))
    if remove:
        requests.append(kind.build_delete_request(remove))
    later = len(changes.add) - len(add) + len(changes.remove) - len(remove)
    counts = f"{len(add)} added, {len(remove)} removed, {len(changes.refused)} refused"
    return requests, f"{kind.name}: {counts}" + (f", {later} next time" if later else "")


def _observations(found: orchestration.PlatformTables) -> list[dg.AssetObservation]:
    """Return what stands in the external assets' history: how many rows there are, and the newest."""
    facts = {
        BACKTEST_RUNS.key: (found.runs, found.newest_run),
        BACKTEST_TUNES.key: (found.tunes, found.newest_tune),
    }
    return [
        dg.AssetObservation(key, partition=found.slug, metadata={"rows": rows, "newest": newest or "none"})
        for key, (rows, newest) in facts.items()
    ]


@dg.sensor(
    job_name="normalise_prices", minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING
)
def new_ohlcv_files(context: dg.SensorEvaluationContext, prices: PricesParam) -> dg.SensorResult:
    """Normalise price files whose bytes are new, once nobody writes them any more: one run for all."""
    before = {name: Seen(*seen) for name, seen in json.loads(context.cursor or "{}").items()}
    seen, work, symbols = _new_files(prices, before)
    plan = _plan(context.instance, context.sensor_name, work)
    says = f"{len(seen)} files, {len(symbols)} symbols new; {plan}"
    _say(context, "new_ohlcv_files", says)
    config = {"ops": {"prices": {"config": {"symbols": symbols}}}}
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(it.run_key, run_config=config, tags=_tags(context.sensor_name, it.due))
            for it in plan.launch
        ],
        skip_reason=None if plan.launch else says,
        cursor=json.dumps(seen),
    )


def _new_files(prices: Prices, before: Mapping[str, Seen]) -> tuple[dict[str, Seen], list[Due], list[str]]:
    """Return the files as they are now, the work they make, and the symbols it is about."""
    files = {file.path.name: file for file in prices.files()}
    now = {name: Seen(*_size_and_time(file.path.stat())) for name, file in files.items()}
    for name in still_files(now, before):
        sha256 = before[name].sha256 or file_hash(files[name].path)
        now[name] = now[name]._replace(sha256=sha256)
    fresh = [
        name for name, seen in now.items() if seen.sha256 and seen.sha256 != normalised_from(files[name])
    ]
    symbols = sorted({files[name].symbol for name in fresh})
    digest = digest_of([f"{name} {now[name].sha256}" for name in fresh])
    return now, [Due("price files", len(fresh), digest)] if fresh else [], symbols


def _size_and_time(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def lost_runs(context: dg.SensorEvaluationContext, database: DatabaseParam) -> dg.SkipReason:
    """End runs whose process is gone, by kill -9 or a power loss: Dagster shows them as started for ever."""
    with database.session("lost_runs") as connection:
        living = activity.living_runs(connection)
    ended, begun = _end_lost(context.instance, {}, living)
    says = f"{begun} runs begun; ended: {', '.join(ended) or 'none'}"
    _say(context, "lost_runs", says)
    return dg.SkipReason(says)


def _end_lost(
    instance: dg.DagsterInstance, tags: Mapping[str, str], living: set[str]
) -> tuple[list[str], int]:
    """End the runs of these tags whose process is gone; return them, and how many there were to look at."""
    found = instance.get_run_records(dg.RunsFilter(tags=tags, statuses=_LAUNCHED))
    ours = [it for it in found if _is_ours(it.dagster_run)]
    heard = {
        it.dagster_run.run_id: _last_heard(instance, it)
        for it in ours
        if not activity.is_living(it.dagster_run.run_id, living)
    }
    lost = silent_runs(heard, time.time())
    for run in (instance.get_run_by_id(run_id) for run_id in lost):
        if run and not run.is_finished:
            instance.report_run_failed(run, "Its process is gone: it holds no session in the database.")
    return lost, len(ours)


def _last_heard(instance: dg.DagsterInstance, record: dg.RunRecord) -> Heard:
    events = instance.get_records_for_run(record.dagster_run.run_id, limit=1, ascending=False).records
    at_seconds = events[0].timestamp if events else record.update_timestamp.timestamp()
    return Heard(at_seconds, record.dagster_run.status == dg.DagsterRunStatus.STARTED)


def _is_ours(run: dg.DagsterRun) -> bool:
    """Return whether a run is of this project: another code location's need no session in its database."""
    assets = {*(run.asset_selection or ()), *(it.asset_key for it in run.asset_check_selection or ())}
    of_assets = bool(assets) and assets <= {it.key for it in ASSETS}
    return of_assets or run.job_name in {*JOB_NAMES, check_regime_drift.name}


@dg.run_failure_sensor(default_status=dg.DefaultSensorStatus.RUNNING)
def run_failure_alert(context: dg.RunFailureSensorContext) -> None:
    """Tell KB_ALERT_WEBHOOK and KB_ALERT_COMMAND about a run that failed."""
    run = context.dagster_run
    told = send_alert(
        {
            "run_id": run.run_id,
            "job": run.job_name,
            "partition": run.tags.get("dagster/partition", ""),
            "error": _cause(context),
        }
    )
    context.log.info(
        f"told: {', '.join(told) or 'nobody; KB_ALERT_WEBHOOK and KB_ALERT_COMMAND are not set'}"
    )


def _cause(context: dg.RunFailureSensorContext) -> str:
    """Return what the first step that failed said; the run's own event only counts them."""
    for event in context.get_step_failure_events():
        failure = event.step_failure_data
        if failure.user_failure_data and failure.user_failure_data.description:
            return failure.user_failure_data.description
        if failure.error:
            return failure.error.message.strip()
    return context.failure_event.message or ""


SENSORS: Final = (completed_tunes, new_partitions, new_ohlcv_files, lost_runs, run_failure_alert)
