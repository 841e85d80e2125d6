"""The event log and the metrics: what machines are told, by whichever way the work was asked for."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.uplift import UpliftRequest, measure_uplift
from kb_pipeline.errors import AlreadyRunningError, OhlcvFileError
from kb_pipeline.orchestration.resources import Database
from kb_pipeline.orchestration.sensors import completed_tunes
from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.events import Event, tell
from kb_pipeline.storage.locks import writer_lock
from kb_pipeline.storage.metrics import exposition
from kb_pipeline.storage.ohlcv_files import read_ohlcv_file
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.acceptance.commands import run_here
from kb_pipeline_tests.builders import GOOD_SUMMARY, add_run, add_trial, add_tune
from kb_pipeline_tests.conftest import Workspace


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv("KB_LOG", str(path))
    return path


def _told(log: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in log.read_text(encoding="ascii").splitlines()]
    assert all(set(event) >= {"at", "event", "pid"} and event["event"] in set(Event) for event in events)
    return events


def test_a_backfill_tells_when_it_begins_and_with_what_it_ends(
    connection: Connection, workspace: Workspace, log: Path
) -> None:
    add_run(connection, workspace)
    add_run(connection, workspace, summary={**GOOD_SUMMARY, "sharpe": 0.0})
    backfill_candidacy(connection, CandidacyRequest(workspace_id=workspace.id), dry_run=True)
    backfill_candidacy(connection, CandidacyRequest(workspace_id=workspace.id), dry_run=False)
    started, _, _, completed = _told(log)
    assert (started["event"], started["kind"], started["dry_run"]) == ("backfill_started", "candidacy", True)
    assert completed["event"] == "backfill_completed"
    assert completed["workspace_id"] == str(workspace.id)
    assert (completed["scanned"], completed["updated"]) == (2, 1)
    assert completed["skipped"] == {"sharpe_too_low": 1}


def test_a_second_writer_and_a_failure_are_told_apart(
    connection: Connection, workspace: Workspace, database_url: str, log: Path
) -> None:
    request = AttributionRequest(workspace_id=workspace.id)
    with (
        connect(database_url) as other,
        writer_lock(other, BackfillKind.ATTRIBUTION, workspace.id),
        pytest.raises(AlreadyRunningError),
    ):
        backfill_attribution(connection, request, dry_run=False)
    connection.execute("ALTER TABLE backtest_tunes RENAME TO gone")
    with pytest.raises(Exception, match="backtest_tunes"):
        backfill_attribution(connection, request, dry_run=False)
    assert [it["event"] for it in _told(log)][1::2] == ["backfill_refused", "backfill_failed"]
    assert _told(log)[-1]["error"] == "UndefinedTable"


def test_uplift_a_refused_file_and_a_tick_are_told(
    connection: Connection, workspace: Workspace, log: Path, tmp_path: Path
) -> None:
    add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0)
    measure_uplift(connection, UpliftRequest(workspace_id=workspace.id), dry_run=False)
    path = tmp_path / "bad.csv"
    path.write_text("timestamp,open,high,low,close\n2024-01-01,x,2,1,1\n", encoding="utf-8")
    with pytest.raises(OhlcvFileError):
        read_ohlcv_file(path)
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        completed_tunes(
            dg.build_sensor_context(
                instance=instance, sensor_name="completed_tunes", resources={"database": Database()}
            )
        )
    *_, uplift, refused, looked = _told(log)
    assert (uplift["event"], uplift["scanned"]) == ("backfill_completed", 1)
    assert (refused["reason"], refused["failures"], refused["path"]) == ("not_a_number", 1, str(path))
    assert (looked["sensor"], looked["says"]) == ("completed_tunes", "found 1 tunes; requested: quant (1)")


def test_an_event_is_one_line_whatever_is_in_it(log: Path) -> None:
    tell(Event.ALERT_SENT, to="two\nlines \x1b[31m \u202e")
    (line,) = log.read_text(encoding="ascii").splitlines()
    assert "\x1b" not in line
    assert json.loads(line)["to"] == "two\nlines \x1b[31m \u202e"


def test_a_log_that_cannot_be_written_stops_nothing(
    connection: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("KB_LOG", "/dev/full")
    add_run(connection, workspace)
    report = backfill_candidacy(connection, CandidacyRequest(workspace_id=workspace.id), dry_run=False)
    assert report.updated == 1
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1, "once, not with each event"
    assert said[0].startswith("KB_LOG: backfill_started could not be written: No space left on device")


def test_the_command_line_tells_on_stderr_and_prints_its_report_on_stdout(
    connection: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_LOG", "-")
    add_run(connection, workspace)
    done = run_here("backfill-candidacy", "--workspace-id", str(workspace.id), "--json")
    assert json.loads(done.stdout)["updated"] == 1
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == [
        "backfill_started",
        "backfill_completed",
    ]


# --- Metrics -------------------------------------------------------------------------------------


def _samples(connection: Connection) -> dict[str, float]:
    lines = exposition(connection).splitlines()
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    assert {name.partition("{")[0] for name, _ in pairs} <= typed
    return {name: float(value) for name, value in pairs}


def test_the_metrics_count_what_was_done_and_what_waits(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    connection.execute("UPDATE workspaces SET slug = 'a \"b\\c'")
    of = 'workspace="a \\"b\\\\c",kind="candidacy"'
    add_run(connection, workspace)
    add_run(connection, workspace, summary={**GOOD_SUMMARY, "sharpe": 0.0})
    add_tune(connection, workspace)
    backfill_candidacy(connection, CandidacyRequest(workspace_id=workspace.id), dry_run=False)
    backfill_candidacy(connection, CandidacyRequest(workspace_id=workspace.id), dry_run=False)
    connection.execute(
        "INSERT INTO kb_backfill_runs (workspace_id, backfill_type, status, holder)"
        " SELECT %s, kind, 'running', 'process 7 on desk' FROM unnest(ARRAY['regime', 'trials']) AS kind",
        [workspace.id],
    )
    with connect(database_url) as other, writer_lock(other, BackfillKind.TRIALS, workspace.id):
        found = _samples(connection)
    assert found[f'kb_backfills_total{{{of},status="completed"}}'] == 2
    assert found[f'kb_backfill_rows_total{{{of},outcome="scanned"}}'] == 3
    assert found[f'kb_backfill_rows_total{{{of},outcome="updated"}}'] == 1
    assert found[f'kb_backfill_skipped_rows_total{{{of},reason="sharpe_too_low"}}'] == 2
    assert found[f"kb_backfill_last_completed_timestamp_seconds{{{of}}}"] > 1.7e9
    assert found['kb_tunes_waiting{workspace="a \\"b\\\\c"}'] == 1
    assert found['kb_tunes_oldest_waiting_seconds{workspace="a \\"b\\\\c"}'] > 3_600
    assert (found["kb_backfills_running"], found["kb_backfills_left_running"]) == (1, 1)
    assert (found["kb_up"], found["kb_sessions_blocked"]) == (1, 0)


def test_the_command_prints_the_metrics_and_a_database_out_of_reach_is_an_error(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_here("metrics")
    assert done.returncode == 0
    assert done.stdout.startswith("# HELP kb_up ")
    assert done.stdout.endswith("kb_sessions_blocked 0\n")
    monkeypatch.setenv("KB_DATABASE_URL", database_url.replace("/kb", "/none").replace("test_", str(uuid4())))
    assert run_here("metrics").returncode == 1
