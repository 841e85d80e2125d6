"""Who is told of drift: a real web server and a real command, once an event, again where telling failed."""

import json
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import pytest

from kb_pipeline.definitions import build_definitions
from kb_pipeline.orchestration.partitions import WORKSPACES
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.questions.drift import DriftRequest, evaluate_drift
from kb_pipeline.questions.drift_report import DriftReport
from kb_pipeline.storage.drift_events import read_events
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.builders import add_strategy
from kb_pipeline_tests.conftest import Workspace
from kb_pipeline_tests.integration.drift_world import add_tuned_windows, write_switched_bars

Look = Callable[[], DriftReport]


@pytest.fixture
def bars(tmp_path: Path, connection: Connection, workspace: Workspace) -> Path:
    """Return the only price file of a data root; its strategy was tuned in its calm part."""
    (tmp_path / "ohlcv").mkdir()
    path = write_switched_bars(tmp_path / "ohlcv" / "AAA_1d.csv", switched=60)
    add_tuned_windows(connection, workspace, path, (250, 500, 750, 1_000))
    return path


@pytest.fixture
def look(connection: Connection, workspace: Workspace, bars: Path) -> Look:
    request = DriftRequest(workspace_id=workspace.id, data_root=bars.parents[1])
    return lambda: evaluate_drift(connection, request, dry_run=False)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Return what a web server on this machine has been told; KB_ALERT_WEBHOOK names it."""
    messages: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("KB_ALERT_WEBHOOK", f"http://127.0.0.1:{server.server_port}")
        yield messages
        server.shutdown()
        thread.join()


def test_an_event_is_told_once_to_the_web_server_and_the_command(
    look: Look, heard: list[Any], bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_command = tmp_path / "told"
    monkeypatch.setenv("KB_ALERT_COMMAND", f"tee -a {told_command}")
    report = look()
    (sentence,) = [it.sentence for it in report.alarms]
    assert report.told == [f"webhook and command: {sentence}"]
    assert look().told == []
    write_switched_bars(bars, switched=61)
    assert look().told == []
    (message,) = heard
    assert json.loads(told_command.read_text()) == message
    assert message["event"] == "regime_drift"
    assert (message["strategy"], message["symbol"], message["timeframe"]) == ("trend_following", "AAA", "1d")
    assert message["first_bar"] == "2023-09-21T00:00:00+00:00"
    assert message["sentence"] == sentence


def test_a_dry_run_tells_nobody(
    connection: Connection, workspace: Workspace, bars: Path, heard: list[Any]
) -> None:
    request = DriftRequest(workspace_id=workspace.id, data_root=bars.parents[1])
    assert len(evaluate_drift(connection, request, dry_run=True).alarms) == 1
    assert heard == []


def test_what_was_not_told_is_told_with_the_next_evaluation(
    connection: Connection, workspace: Workspace, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_ALERT_COMMAND", f"{sys.executable} -c 'raise SystemExit(3)' --password=secret")
    failed = look()
    assert failed.told == []
    assert failed.untold[0].endswith("(KB_ALERT_COMMAND ended with exit status 3)")
    (event,) = read_events(connection, workspace.id)
    assert event.alerted_at is None
    assert event.alert_error == "KB_ALERT_COMMAND ended with exit status 3"
    monkeypatch.setenv("KB_ALERT_COMMAND", "true")
    assert len(look().told) == 1
    (event,) = read_events(connection, workspace.id)
    assert event.alerted_at is not None
    assert event.alert_error is None
    assert look().told == []


def test_an_event_that_lasts_is_told_when_somebody_can_be_told(look: Look, heard: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as nobody:
        nobody.delenv("KB_ALERT_WEBHOOK")
        report = look()
        assert (report.told, report.untold) == ([], [])
    assert len(look().told) == len(heard) == 1


def test_an_event_that_follows_one_that_was_told_is_told_too(
    connection: Connection, workspace: Workspace, look: Look, bars: Path, heard: list[Any]
) -> None:
    look()
    other = Workspace(workspace.id, add_strategy(connection, workspace.id, "reversal"))
    add_tuned_windows(connection, other, bars, (250, 500, 750, 1_000))
    assert len(look().told) == 1
    assert [message["strategy"] for message in heard] == ["trend_following", "reversal"]


# --- The check -----------------------------------------------------------------------------------


@pytest.fixture
def instance(workspace: Workspace, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as found:
        found.add_dynamic_partitions(str(WORKSPACES.name), ["quant"])
        yield found


def _check(instance: dg.DagsterInstance, root: Path, **settings: Any) -> dg.AssetCheckEvaluation:
    definitions = build_definitions(database=Database(), prices=Prices(root))
    config = {"ops": {"tune_regime_attribution_regime_drift": {"config": settings}}}
    result = definitions.resolve_job_def("check_regime_drift").execute_in_process(
        instance=instance, run_config=config
    )
    (found,) = result.get_asset_check_evaluations()
    return found


def test_the_check_warns_with_the_features_that_moved_and_tells(
    look: Look, instance: dg.DagsterInstance, bars: Path, heard: list[Any]
) -> None:
    found = _check(instance, bars.parents[1])
    assert (found.check_name, found.passed, found.severity) == (
        "regime_drift",
        False,
        dg.AssetCheckSeverity.WARN,
    )
    assert "trend_following on AAA 1d" in str(found.description)
    moved = [record.data for record in found.metadata["moved"].value.records]  # type: ignore[union-attr]
    assert {row["feature"] for row in moved} == {"atr_pct", "std_pct", "bb_width_pct"}
    assert all(row["deviations"] > 2 for row in moved)
    assert [found.metadata[name].value for name in ("evaluated", "alarms", "new_events", "told")] == [1] * 4
    assert len(heard) == 1
    again = _check(instance, bars.parents[1], workspaces=["quant"])
    assert (again.passed, again.metadata["new_events"].value, len(heard)) == (False, 0, 1)


def test_the_check_passes_where_the_market_is_the_same_and_names_what_it_cannot_read(
    look: Look, instance: dg.DagsterInstance, bars: Path, tmp_path: Path
) -> None:
    write_switched_bars(bars, switched=0)
    assert _check(instance, bars.parents[1]).passed
    nowhere = _check(instance, tmp_path / "nowhere")
    assert not nowhere.passed
    assert "could not be read" in str(nowhere.metadata["could_not_start"].value)


def test_the_schedule_asks_every_day_at_six_in_utc() -> None:
    (schedule,) = build_definitions().schedules or ()
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 6 * * *", "UTC")
    assert schedule.job_name == "check_regime_drift"
