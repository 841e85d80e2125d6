"""A batch that another session is in the way of is read and tried again, five times in all, and then left."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.invariants import breaches
from kb_pipeline.backfills.trials import TrialsRequest, ingest_trials
from kb_pipeline.errors import ConflictsRemainError
from kb_pipeline.storage import backtest_runs, kb_trials, session
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.builders import add_run, add_trial, add_tune, column
from kb_pipeline_tests.conftest import Workspace
from kb_pipeline_tests.integration.schedules import Schedule, statements

TOUCH = "UPDATE backtest_runs SET engine = 'hers' WHERE id = %(id)s"
HOLD = "SELECT FROM backtest_runs WHERE id = %s FOR UPDATE"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds that were waited between two tries; none really pass."""
    waited: list[float] = []
    monkeypatch.setattr(session, "time", SimpleNamespace(sleep=waited.append))
    return waited


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Return the ids of each page read and of each batch written."""
    seen: dict[str, list[Any]] = {"read": [], "written": []}
    read, write = backtest_runs.read_candidacy_page, backtest_runs.mark_candidates

    def reading(*arguments: Any, **options: Any) -> Any:
        rows = read(*arguments, **options)
        seen["read"].append([UUID(row[0]) for row in rows])
        return rows

    def writing(connection: Connection, workspace_id: UUID, ids: Any, versions: Any) -> set[str]:
        seen["written"].append([UUID(it) for it in ids])
        return write(connection, workspace_id, ids, versions)

    monkeypatch.setattr(backtest_runs, "read_candidacy_page", reading)
    monkeypatch.setattr(backtest_runs, "mark_candidates", writing)
    return seen


def _backfill(connection: Connection, workspace: Workspace) -> Any:
    report = backfill_candidacy(connection, CandidacyRequest(workspace_id=workspace.id), dry_run=False)
    assert breaches(connection, workspace.id) == {}
    return report


def test_a_locked_row_is_tried_five_times_each_after_a_pause_of_its_own_and_read_again_each_time(
    connection: Connection, workspace: Workspace, database_url: str, pauses: list[float], tries: Any
) -> None:
    run_id = add_run(connection, workspace)
    connection.execute("SET lock_timeout = '20ms'")
    with connect(database_url) as other, other.transaction():
        other.execute(HOLD, [run_id])
        assert _backfill(connection, workspace).conflicts == 1
    assert tries == {"read": [[run_id]] * 5, "written": [[run_id]] * 5}
    assert len(set(pauses)) == 5
    assert all(0.01 <= pause <= 0.2 for pause in pauses)


def test_a_row_that_is_let_go_is_written_at_the_next_try(
    connection: Connection, workspace: Workspace, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = add_run(connection, workspace)
    connection.execute("SET lock_timeout = '20ms'")
    with connect(database_url) as other:
        other.execute("BEGIN")
        other.execute(HOLD, [run_id])
        monkeypatch.setattr(session, "step_aside", lambda: other.execute("ROLLBACK"))
        report = _backfill(connection, workspace)
    assert (report.updated, report.conflicts, report.changed_meanwhile) == (1, 0, 0)


def test_rows_are_written_in_the_order_of_their_ids(
    connection: Connection, workspace: Workspace, tries: Any
) -> None:
    ids = sorted((add_run(connection, workspace) for _ in range(20)), reverse=True)
    for minute, run_id in enumerate(ids):  # read in the opposite order
        connection.execute(
            "UPDATE backtest_runs SET created_at = '2025-01-01Z'::timestamptz + %s * interval '1 min'"
            " WHERE id = %s",
            [minute, run_id],
        )
    assert _backfill(connection, workspace).updated == 20
    assert (tries["read"], tries["written"]) == ([ids], [sorted(ids)])


def test_the_victim_of_a_deadlock_tries_again(
    connection: Connection, workspace: Workspace, database_url: str, tries: Any
) -> None:
    first, last = sorted(add_run(connection, workspace) for _ in range(2))
    connection.execute("SET deadlock_timeout = '20ms'")  # ours looks first, and is the one to give way
    connection.execute("SET enable_hashjoin = off; SET enable_mergejoin = off")  # rows are locked in order

    def take_in_the_opposite_order(other: Connection) -> None:
        with other.transaction():
            other.execute(TOUCH, {"id": last})
            holds.set()
            assert ours_waits.wait(10)
            other.execute(TOUCH, {"id": first})

    holds, ours_waits = threading.Event(), threading.Event()
    with connect(database_url) as other, connect(database_url) as looking_on:
        opposite = threading.Thread(target=take_in_the_opposite_order, args=[other])
        opposite.start()
        assert holds.wait(10)
        watching = threading.Thread(target=_tell_when_waiting, args=[looking_on, connection, ours_waits])
        watching.start()
        report = _backfill(connection, workspace)
        opposite.join(10)
        watching.join(10)
    assert (report.updated, report.conflicts) == (2, 0)
    assert len(tries["written"]) > 1, "there was no deadlock"
    assert column(connection, "backtest_runs", "engine", first) == "hers"


def _tell_when_waiting(looking_on: Connection, ours: Connection, waits: threading.Event) -> None:
    blocked = "SELECT pg_blocking_pids(%s) <> '{}'"
    while looking_on.execute(blocked, [ours.info.backend_pid]).fetchone() != (True,):
        pass
    waits.set()


def test_where_sessions_are_repeatable_read_a_row_changed_meanwhile_is_read_again(
    connection: Connection, workspace: Workspace, database_url: str, monkeypatch: Any, pauses: list[float]
) -> None:
    run_id = add_run(connection, workspace)
    connection.execute("SET default_transaction_isolation = 'repeatable read'")
    schedule = Schedule(database_url, while_writing=statements(TOUCH, id=run_id))
    reading, writing = schedule.around(backtest_runs.read_candidacy_page, backtest_runs.mark_candidates)
    monkeypatch.setattr(backtest_runs, "read_candidacy_page", reading)
    monkeypatch.setattr(backtest_runs, "mark_candidates", writing)
    report = _backfill(connection, workspace)
    schedule.end()
    assert (report.updated, report.conflicts, len(pauses)) == (1, 0, 1), "one 40001, then written"


# --- Trials --------------------------------------------------------------------------------------


def _ingest(connection: Connection, workspace: Workspace) -> Any:
    report = ingest_trials(connection, TrialsRequest(workspace_id=workspace.id), dry_run=False)
    assert breaches(connection, workspace.id) == {}
    return report


def _trials(connection: Connection) -> dict[UUID, tuple[Any, ...]]:
    rows = connection.execute("SELECT source_id, kb_status, sharpe_oos, archived_at IS NULL FROM kb_trials")
    return {row_id: values for row_id, *values in rows.fetchall()}  # type: ignore[misc]


@pytest.fixture
def before_landing(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Callable[..., None]:
    """Return a function that runs a statement in another session just before trials are landed."""

    def arrange(text: str, **parameters: Any) -> None:
        schedule = Schedule(database_url, before_write=statements(text, **parameters))
        _, writing = schedule.around(kb_trials.read_sources_page, kb_trials.land_trials)
        monkeypatch.setattr(kb_trials, "land_trials", writing)

    return arrange


def test_a_trial_whose_source_changed_meanwhile_is_brought_up_to_date_by_the_next_run(
    connection: Connection, workspace: Workspace, before_landing: Any
) -> None:
    run_id = add_run(connection, workspace, kb_status="candidate")
    before_landing("UPDATE backtest_runs SET summary = '{\"sharpe\": 2.5}' WHERE id = %(id)s", id=run_id)
    _ingest(connection, workspace)
    assert _trials(connection) == {run_id: ["candidate", 1.2, True]}, "as it was read"
    assert _ingest(connection, workspace).updated == 1
    assert _trials(connection) == {run_id: ["candidate", 2.5, True]}
    assert _ingest(connection, workspace).scanned == 0


@pytest.mark.parametrize(
    "change",
    ["UPDATE backtest_runs SET kb_status = 'rejected' WHERE id = %(id)s", "DELETE FROM backtest_runs"],
)
def test_a_trial_whose_source_was_taken_meanwhile_is_put_away_in_the_same_run(
    connection: Connection, workspace: Workspace, before_landing: Any, change: str
) -> None:
    run_id = add_run(connection, workspace, kb_status="candidate")
    before_landing(change, id=run_id)
    assert _ingest(connection, workspace).notices["archived"] == 1
    assert _trials(connection) == {run_id: ["candidate", 1.2, False]}


def test_a_run_that_two_tunes_tried_is_counted_once_when_its_batch_is_tried_again(
    connection: Connection, workspace: Workspace, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = add_tune(connection, workspace), add_tune(connection, workspace)
    run_id = add_trial(connection, workspace, first, sharpe=1)
    connection.execute(
        "INSERT INTO backtest_tune_runs (tune_id, run_id, trial_index, params, status)"
        " VALUES (%s, %s, 1, '{}', 'completed')",
        [second, run_id],
    )
    connection.execute("SET lock_timeout = '20ms'")
    with connect(database_url) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE kb_trials IN EXCLUSIVE MODE")
        monkeypatch.setattr(session, "step_aside", lambda: other.execute("ROLLBACK"))
        report = _ingest(connection, workspace)
    assert (report.scanned, report.updated, report.skipped) == (2, 1, {"run_of_another_trial": 1})
    assert (report.changed_meanwhile, report.conflicts) == (0, 0)


def test_putting_trials_away_is_tried_again_and_in_the_end_said(
    connection: Connection, workspace: Workspace, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = add_run(connection, workspace, kb_status="candidate")
    _ingest(connection, workspace)
    connection.execute("DELETE FROM backtest_runs WHERE id = %s", [run_id])
    connection.execute("SET lock_timeout = '20ms'")
    with connect(database_url) as other:
        other.execute("BEGIN")
        other.execute("SELECT FROM kb_trials FOR UPDATE")
        with pytest.raises(ConflictsRemainError, match=r"1 trials .* 5 times in a row"):
            _ingest(connection, workspace)
        monkeypatch.setattr(session, "step_aside", lambda: other.execute("ROLLBACK"))
        assert _ingest(connection, workspace).notices["archived"] == 1
