"""The sensors over a real database, real files and an instance of the test's own."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.orchestration import sensor_decisions, sensors
from kb_pipeline.orchestration.executor import seen_alive
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.orchestration.sensors import (
    DIGEST_TAG,
    SENSOR_TAG,
    completed_tunes,
    lost_runs,
    new_ohlcv_files,
    new_partitions,
)
from kb_pipeline.storage.activity import is_living, living_runs
from kb_pipeline.storage.alerts import send_alert
from kb_pipeline.storage.ohlcv_files import read_ohlcv_file
from kb_pipeline.storage.orchestration import due_tunes
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline.storage.price_files import list_price_files, normalised_from, write_normalised
from kb_pipeline_tests.builders import add_run, add_trial, add_tune, add_workspace, write_daily_bars
from kb_pipeline_tests.conftest import Workspace


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as found:
        yield found


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prices:
    monkeypatch.setenv("KB_HOME", str(tmp_path / "kb"))
    (tmp_path / "data" / "ohlcv").mkdir(parents=True)
    return Prices(tmp_path / "data")


def _tick(
    sensor: Any, instance: dg.DagsterInstance, cursor: str | None = None, **resources: Any
) -> dg.SensorResult:
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, sensor_name=sensor.name, resources=resources
    )
    found = sensor(context)
    assert isinstance(found, dg.SensorResult)
    return found


def test_tunes_of_a_workspace_are_requested_together_and_only_once_they_have_a_regime(
    connection: Connection, workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    for _ in range(3):
        add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0)
    add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0, regime=None)
    add_trial(connection, workspace, add_tune(connection, workspace, status="running"), sharpe=1.0)
    result = _tick(completed_tunes, instance, database=Database())
    (request,) = result.run_requests or ()
    assert (request.partition_key, request.tags["kb/workspace"]) == ("quant", "quant")
    assert [(it.slug, it.tunes) for it in due_tunes(connection)] == [("quant", 3)]
    backfill_attribution(connection, AttributionRequest(workspace_id=workspace.id), dry_run=False)
    after = _tick(completed_tunes, instance, database=Database())
    assert not after.run_requests
    assert "found 0 tunes" in str(after.skip_reason)


def test_a_regime_that_arrives_makes_its_tune_due(connection: Connection, workspace: Workspace) -> None:
    run_id = add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0, regime=None)
    assert due_tunes(connection) == []
    snapshot = '{"schema_version": "regime_v1_1", "regime_tags": ["flat"]}'
    connection.execute("UPDATE backtest_runs SET regime_oos = %s WHERE id = %s", [snapshot, run_id])
    assert [it.tunes for it in due_tunes(connection)] == [1]


def test_a_run_in_flight_is_not_joined_by_a_second_and_a_failed_one_is_repeated(
    connection: Connection, workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0)
    (first,) = _tick(completed_tunes, instance, database=Database()).run_requests or ()
    run = instance.create_run_for_job(
        dg.job(name="attribution")(lambda: None), tags=dict(first.tags), status=dg.DagsterRunStatus.STARTED
    )
    assert "in flight: quant" in str(_tick(completed_tunes, instance, database=Database()).skip_reason)
    instance.report_run_failed(run)
    (second,) = _tick(completed_tunes, instance, database=Database()).run_requests or ()
    assert (first.run_key, second.run_key) == (
        f"quant:{first.tags[DIGEST_TAG]}:1",
        f"quant:{first.tags[DIGEST_TAG]}:2",
    )
    assert first.tags[SENSOR_TAG] == "completed_tunes"


def test_a_workspace_whose_name_can_be_no_partition_holds_up_no_other(
    connection: Connection, workspace: Workspace, instance: dg.DagsterInstance, prices: Prices
) -> None:
    for slug in ("quant", "a|b", "a...b", "a\nb", "a\x07b", " "):
        of = workspace if slug == "quant" else add_workspace(connection, slug)
        add_trial(connection, of, add_tune(connection, of), sharpe=1.0)
    context = dg.build_sensor_context(
        instance=instance, sensor_name="completed_tunes", resources={"database": Database(), "prices": prices}
    )
    tunes, partitions = completed_tunes(context), new_partitions(context)
    assert isinstance(tunes, dg.SensorResult)
    assert isinstance(partitions, dg.SensorResult)
    assert [it.partition_key for it in tunes.run_requests or ()] == ["quant"]
    for found in (tunes, partitions):
        (added,) = [it.partition_keys for it in found.dynamic_partitions_requests or ()]
        assert list(added) == ["quant"]
    assert {it.partition for it in partitions.asset_events} == {"quant"}
    assert "5 refused" in str(partitions.skip_reason)


@pytest.mark.parametrize("left", ["STARTED", "STARTING", "NOT_STARTED"])
def test_after_a_power_loss_every_tune_is_attributed_within_two_intervals(
    connection: Connection,
    workspace: Workspace,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    left: str,
) -> None:
    add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0)
    (request,) = _tick(completed_tunes, instance, database=Database()).run_requests or ()
    run = instance.create_run_for_job(
        dg.job(name="check_regime_drift")(lambda: None),
        tags=dict(request.tags),
        status=dg.DagsterRunStatus[left],
    )
    instance.report_engine_event("the last word before the power was lost", run)
    lost = time.time()

    def ticked(seconds_later: float) -> dg.SensorResult:
        monkeypatch.setattr(sensors, "time", SimpleNamespace(time=lambda: lost + seconds_later))
        return _tick(completed_tunes, instance, database=Database())

    with Database().session("begun", run.run_id):
        assert "in flight: quant" in str(ticked(3_600).skip_reason), "it lives"
    # Back at once, which is the worst: nobody can yet know that the run is gone.
    assert "in flight: quant" in str(ticked(1).skip_reason)
    interval = completed_tunes.minimum_interval_seconds
    assert interval == 30
    again = [it for number in (1, 2) for it in ticked(1 + number * interval).run_requests or ()]
    assert [it.run_key for it in again][:1] == [request.run_key.removesuffix("1") + "2"]
    assert instance.get_runs()[0].status == dg.DagsterRunStatus.FAILURE


def test_work_that_failed_five_times_is_left_to_a_person_and_named(
    connection: Connection, workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0)
    keys = []
    for _ in range(5):
        (request,) = _tick(completed_tunes, instance, database=Database()).run_requests or ()
        again = _tick(completed_tunes, instance, database=Database()).run_requests or ()
        assert [it.run_key for it in again] == [request.run_key], "Dagster takes a key only once"
        keys.append(request.run_key)
        run = instance.create_run_for_job(
            dg.job(name="attribution")(lambda: None),
            tags=dict(request.tags),
            status=dg.DagsterRunStatus.STARTED,
        )
        instance.report_run_failed(run)
    assert len(set(keys)) == 5
    assert "gave up on: quant" in str(_tick(completed_tunes, instance, database=Database()).skip_reason)
    add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0)
    assert len(_tick(completed_tunes, instance, database=Database()).run_requests or ()) == 1


def _complete(connection: Connection, workspace: Workspace, tunes: int) -> None:
    for _ in range(tunes):
        tune_id = add_tune(connection, workspace, completed_at=datetime.now(UTC))
        add_trial(connection, workspace, tune_id, sharpe=1.0)


def test_two_hundred_tunes_of_eight_writers_are_attributed_each_once(
    connection: Connection, workspace: Workspace, database_url: str, instance: dg.DagsterInstance
) -> None:
    def write(number: int) -> None:
        with connect(database_url) as own:
            for several in (1, 7, 5, 12):
                with own.transaction():
                    _complete(own, workspace, several)
                    time.sleep(0.01 * (number % 4))

    def tick(cursor: str | None) -> str | None:
        looked = _tick(completed_tunes, instance, cursor, database=Database())
        if looked.run_requests:
            backfill_attribution(connection, AttributionRequest(workspace_id=workspace.id), dry_run=False)
        return looked.cursor

    def attributed() -> int:
        counted = "SELECT count(*) FROM backtest_tunes WHERE regime_key IS NOT NULL"
        (number,) = connection.execute(counted).fetchone() or (0,)
        return int(number)

    cursor = None
    with connect(database_url) as eighth, eighth.transaction(), ThreadPoolExecutor(7) as writers:
        _complete(eighth, workspace, 25)
        writing = [writers.submit(write, number) for number in range(7)]
        while attributed() < 175:
            assert not any(it.done() and it.exception() for it in writing)
            cursor = tick(cursor)
    # The counters of a session that has ended follow within a second; a tick is 30 s.
    time.sleep(1.1)
    for _ in range(2):
        cursor = tick(cursor)
    assert attributed() == 200
    written = "SELECT sum(processed_count) FROM kb_backfill_runs"
    assert connection.execute(written).fetchone() == (200,)


def test_a_run_whose_process_is_gone_is_ended_and_a_living_or_foreign_one_is_not(
    connection: Connection, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensor_decisions, "SILENCE_SECONDS", -1)
    started = dg.DagsterRunStatus.STARTED
    ours, foreign = (
        instance.create_run_for_job(dg.job(name=name)(lambda: None), status=started)
        for name in ("check_regime_drift", "a_job_of_somebody_else")
    )

    def statuses() -> tuple[dg.DagsterRunStatus, ...]:
        context = dg.build_sensor_context(instance=instance, resources={"database": Database()})
        assert isinstance(lost_runs(context), dg.SkipReason)
        return tuple(instance.get_runs(dg.RunsFilter([run.run_id]))[0].status for run in (ours, foreign))

    with Database().session("drift", ours.run_id):
        assert statuses() == (started, started)
    assert statuses() == (dg.DagsterRunStatus.FAILURE, started)


ALIVE_BETWEEN_STEPS: list[bool] = []


def _job_that_looks() -> dg.JobDefinition:
    @dg.op
    def look(context: dg.OpExecutionContext) -> None:
        with connect() as connection:
            ALIVE_BETWEEN_STEPS.append(is_living(context.run.run_id, living_runs(connection)))

    @dg.job(executor_def=seen_alive(dg.in_process_executor, Database()))
    def looks() -> None:
        look()

    return looks


def test_a_run_is_seen_to_live_also_while_none_of_its_steps_works(
    connection: Connection, instance: dg.DagsterInstance
) -> None:
    ALIVE_BETWEEN_STEPS.clear()
    with dg.execute_job(dg.reconstructable(_job_that_looks), instance=instance) as done:
        assert done.success
    assert ALIVE_BETWEEN_STEPS == [True]
    assert living_runs(connection) == set(), "and no longer"


def test_workspaces_and_symbols_become_partitions_and_the_tables_are_observed_once(
    connection: Connection, workspace: Workspace, prices: Prices, instance: dg.DagsterInstance
) -> None:
    write_daily_bars(prices.root / "ohlcv" / "AAA_1d.csv")
    add_run(connection, workspace)
    first = _tick(new_partitions, instance, database=Database(), prices=prices)
    added = {
        it.partitions_def_name: list(it.partition_keys) for it in first.dynamic_partitions_requests or ()
    }
    assert added == {"workspace": ["quant"], "symbol": ["AAA"]}
    rows = {it.asset_key.to_user_string(): it.metadata["rows"].value for it in first.asset_events}
    assert rows == {"backtest_runs": 1, "backtest_tunes": 0}
    again = _tick(new_partitions, instance, first.cursor, database=Database(), prices=prices)
    assert not again.asset_events


def test_a_directory_that_cannot_be_read_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(BadArgumentError, match="could not be read"):
        list_price_files(tmp_path / "nowhere")


def test_a_price_file_is_requested_when_it_stands_still_until_it_is_normalised(
    workspace: Workspace, prices: Prices, instance: dg.DagsterInstance
) -> None:
    path = write_daily_bars(prices.root / "ohlcv" / "AAA_1d.csv")
    first = _tick(new_ohlcv_files, instance, prices=prices)
    assert not first.run_requests
    second = _tick(new_ohlcv_files, instance, first.cursor, prices=prices)
    (request,) = second.run_requests or ()
    assert request.run_config == {"ops": {"prices": {"config": {"symbols": ["AAA"]}}}}
    (file,) = prices.files()
    write_normalised(file, read_ohlcv_file(path))
    assert normalised_from(file) is not None
    assert not _tick(new_ohlcv_files, instance, second.cursor, prices=prices).run_requests
    # The same size and other bytes: the time of change tells, and then the hash.
    path.write_text(path.read_text().replace(",1000\n", ",1001\n", 1))
    os.utime(path, ns=(1, 1))
    third = _tick(new_ohlcv_files, instance, second.cursor, prices=prices)
    assert not third.run_requests
    assert _tick(new_ohlcv_files, instance, third.cursor, prices=prices).run_requests


def test_a_pipe_and_a_dangling_link_among_the_price_files_hold_nobody_up(
    prices: Prices, instance: dg.DagsterInstance
) -> None:
    files = prices.root / "ohlcv"
    os.mkfifo(files / "PIPE_1d.csv")
    (files / "LINK_1d.csv").symlink_to("nowhere")
    (files / "DIRECTORY_1d.csv").mkdir()
    write_daily_bars(files / "AAA_1d.csv")
    assert prices.symbols() == ["AAA"]
    first = _tick(new_ohlcv_files, instance, prices=prices)
    assert len(_tick(new_ohlcv_files, instance, first.cursor, prices=prices).run_requests or ()) == 1


def test_an_alert_reaches_the_webhook_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("KB_ALERT_WEBHOOK", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("KB_ALERT_COMMAND", f"tee {tmp_path / 'told'}")
        assert send_alert({"job": "everything"}) == ["webhook", "command"]
        thread.join()
    assert heard == [{"job": "everything"}] == [json.loads((tmp_path / "told").read_text())]


def test_an_alert_command_that_fails_is_not_taken_for_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KB_ALERT_COMMAND", "false")
    with pytest.raises(subprocess.CalledProcessError):
        send_alert({})
