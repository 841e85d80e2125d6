"""`kb-pipeline drift` over real price files: an alarm, its event, and what it refuses."""

import json
from pathlib import Path

import pytest

from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.acceptance.commands import ANY_ID, run_here
from kb_pipeline_tests.conftest import Workspace
from kb_pipeline_tests.integration.drift_world import add_tuned_windows, write_switched_bars


@pytest.fixture
def bars(
    tmp_path: Path, connection: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return the only price file of the data root; its strategy was tuned in its calm part."""
    (tmp_path / "ohlcv").mkdir()
    monkeypatch.setenv("KB_DATA_ROOT", str(tmp_path))
    path = write_switched_bars(tmp_path / "ohlcv" / "AAA_1d.csv", switched=60)
    add_tuned_windows(connection, workspace, path, (250, 500, 750, 1_000))
    return path


def test_an_alarm_is_told_in_a_sentence_and_ends_with_zero(workspace: Workspace, bars: Path) -> None:
    asked = run_here("drift", "--workspace-id", workspace.id)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert "evaluated 1, in alarm 1, new events 1" in asked.stdout
    assert "ALARM  trend_following on AAA 1d, bars to 2023-09-21: for 10 bars far from all 4" in asked.stdout
    again = run_here("drift", "--workspace-id", workspace.id)
    assert "evaluated 1, in alarm 1, new events 0" in again.stdout


def test_json_tells_the_same_and_a_dry_run_keeps_nothing(
    connection: Connection, workspace: Workspace, bars: Path
) -> None:
    options = ("--strategy", "trend_following", "--symbol", "aaa", "--ohlcv-file", bars, "--dry-run")
    asked = run_here("drift", "--workspace-id", workspace.id, *options, "--json")
    told = json.loads(asked.stdout)
    assert (told["dry_run"], told["alarms"], told["new_events"]) == (True, 1, 0)
    assert "nothing kept (dry run)" in run_here("drift", "--workspace-id", workspace.id, "--dry-run").stdout
    assert connection.execute("SELECT count(*) FROM kb_drift_evaluations").fetchone() == (0,)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--strategy", "none"), "There is no strategy 'none'"),
        (("--symbol", "nope"), "No attributed tune of symbol 'NOPE'; there are AAA 1d."),
        (("--ohlcv-file", "/nowhere/AAA_1d.csv"), "/nowhere/AAA_1d.csv"),
        (("--timeframe", "2d"), "Invalid value for '--timeframe'"),
        (("--symbol", "A\nB"), "control characters"),
    ],
)
def test_what_cannot_be_used_ends_with_two(
    workspace: Workspace, bars: Path, options: tuple[str, ...], said: str
) -> None:
    refused = run_here("drift", "--workspace-id", workspace.id, *options)
    assert refused.returncode == 2
    assert said in refused.stderr


def test_an_unknown_workspace_is_refused(bars: Path) -> None:
    refused = run_here("drift", "--workspace-id", ANY_ID)
    assert refused.returncode == 2
    assert "There is no workspace" in refused.stderr
