"""Two writers, locked rows, signals and crashes, with real processes."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kb_pipeline import rules
from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.locks import writer_lock
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.acceptance.commands import PROJECT, command_line, run, run_here
from kb_pipeline_tests.builders import GOOD_SUMMARY, add_run, column
from kb_pipeline_tests.conftest import Workspace


def _count(connection: Connection, of: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {of}").fetchone()
    assert row is not None
    return int(row[0])


def _many_runs(connection: Connection, workspace: Workspace, runs: int) -> None:
    """Insert test variants that pass the gate, a second apart."""
    connection.execute(
        "INSERT INTO backtest_runs (workspace_id, strategy_entity_id, created_at, status, run_kind, summary)"
        " SELECT %s, %s, timestamptz '2025-01-01Z' + number * interval '1 s', 'completed', 'test_variant', %s"
        "   FROM generate_series(1, %s) AS number",
        [workspace.id, workspace.strategy_id, json.dumps(GOOD_SUMMARY), runs],
    )


# --- One writer, conflicts -----------------------------------------------------------------------


def test_a_second_writer_ends_with_75_and_says_who_holds_it(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    run_id = add_run(connection, workspace)
    command = ("backfill-candidacy", "--workspace-id", workspace.id)
    with (
        connect(database_url, application_name="the first one") as first,
        writer_lock(first, BackfillKind.CANDIDACY, workspace.id),
    ):
        done = run(*command)
        assert (done.returncode, done.stdout) == (75, "")
        assert (
            f"candidacy backfill of workspace {workspace.id} is already running: the first one" in done.stderr
        )
        assert run(*command, "--dry-run").returncode == 0, "a dry run only reads"
    assert column(connection, "backtest_runs", "kb_status", run_id) == "excluded"


def test_conflicts_that_remain_end_with_3_and_a_report(
    connection: Connection,
    workspace: Workspace,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    locked, _ = add_run(connection, workspace), add_run(connection, workspace)
    monkeypatch.setattr(rules, "LOCK_TIMEOUT_MS", 20)
    command = ("backfill-candidacy", "--workspace-id", workspace.id, "--batch-size", 1)
    with connect(database_url) as other, other.transaction():
        other.execute("SELECT 1 FROM backtest_runs WHERE id = %s FOR UPDATE", [locked])
        done = run_here(*command)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (3, "Conflicts: 1")


# --- Signals and crashes -------------------------------------------------------------------------


@pytest.fixture
def begin() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Return a function that starts a command and does not wait for it."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command_line(*arguments), stdout=pipe, stderr=pipe, text=True, env=os.environ, cwd=PROJECT
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _wait(process: "subprocess.Popen[str] | None", reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline, "nothing happened within a minute"
        assert process is None or process.poll() is None, "the command ended before it was to be stopped"
        time.sleep(0.005)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_between_two_batches_with_a_report(
    connection: Connection, workspace: Workspace, begin: Any, number: signal.Signals, exit_code: int
) -> None:
    _many_runs(connection, workspace, 3_000)
    command = ("backfill-candidacy", "--workspace-id", workspace.id, "--batch-size", 2, "--limit", 3_000)
    process = begin(*command)
    _wait(process, lambda: _count(connection, "kb_status_history") > 0)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (exit_code, "")
    assert out.splitlines()[-1] == f"Interrupted by {number.name}; run the same command again to go on."
    updated = int(re.findall(r"^Updated: +(\d+)$", out, re.MULTILINE)[0])
    assert 0 < updated < 3_000
    assert _count(connection, "kb_status_history") == updated
    ledger = connection.execute("SELECT status, processed_count, scanned_count FROM kb_backfill_runs")
    assert ledger.fetchall() == [("interrupted", updated, updated)]
    assert run(*command[:3]).returncode == 0
    assert _count(connection, "backtest_runs WHERE kb_status = 'candidate'") == updated + 1_000, "the default"


def test_killed_again_and_again_it_finishes_with_one_audit_row_a_run(
    connection: Connection, workspace: Workspace, begin: Any
) -> None:
    runs = 2_000
    _many_runs(connection, workspace, runs)
    command = ("backfill-candidacy", "--workspace-id", workspace.id, "--batch-size", 3, "--limit", runs)
    for kill_at in (1, 500, 1_100, 1_600):
        process = begin(*command)
        _wait(process, lambda at=kill_at: _count(connection, "kb_status_history") >= at)  # type: ignore[misc]
        process.kill()
        assert process.wait(timeout=30) == -signal.SIGKILL
        # the server ends a session whose client is gone, and with it the lock
        _wait(
            None,
            lambda: (
                _count(connection, "pg_stat_activity WHERE application_name LIKE '%backfill-candidacy'") == 0
            ),
        )
        marked = _count(connection, "backtest_runs WHERE kb_status = 'candidate'")
        assert kill_at <= marked == _count(connection, "kb_status_history") < runs
        counted = connection.execute("SELECT sum(processed_count) FROM kb_backfill_runs").fetchone()
        assert counted == (marked,), "the ledger knows of every batch that was committed"
    done = run(*command)
    assert done.returncode == 0
    assert _count(connection, "backtest_runs WHERE kb_status = 'candidate'") == runs
    assert _count(connection, "kb_status_history") == runs
    assert _count(connection, "(SELECT DISTINCT source_id FROM kb_status_history) AS audited") == runs
    states = connection.execute("SELECT status FROM kb_backfill_runs ORDER BY started_at").fetchall()
    assert states == [("interrupted",)] * 4 + [("completed",)]
