"""The candidacy backfill beside other sessions: what they do between its read and its write."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from kb_pipeline.backfills import candidacy
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.builders import add_run, column
from kb_pipeline_tests.conftest import Workspace


def _backfill(
    connection: Connection, workspace: Workspace, *, dry_run: bool = False, **options: Any
) -> BackfillReport:
    request = CandidacyRequest(workspace_id=workspace.id, **options)
    return backfill_candidacy(connection, request, dry_run=dry_run)


def _status(connection: Connection, run_id: UUID) -> str:
    return str(column(connection, "backtest_runs", "kb_status", run_id))


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Any:
    """Return a function that runs statements in a session of their own just before the first write."""

    def arrange(*statements: tuple[str, Sequence[Any]]) -> None:
        write = candidacy.backtest_runs.mark_candidates
        waiting = list(statements)

        def write_after_them(*arguments: Any) -> set[str]:
            with connect(database_url) as other:
                while waiting:
                    other.execute(*waiting.pop(0))  # type: ignore[arg-type]
            return write(*arguments)

        monkeypatch.setattr(candidacy.backtest_runs, "mark_candidates", write_after_them)

    return arrange


@pytest.mark.parametrize("decision", ["promoted", "rejected", "candidate"])
def test_a_decision_made_meanwhile_is_never_overwritten(
    connection: Connection, workspace: Workspace, meddle: Any, decision: str
) -> None:
    theirs, ours = add_run(connection, workspace), add_run(connection, workspace)
    meddle(
        (
            "UPDATE backtest_runs SET kb_status_changed_by = 'alice', kb_status = %s WHERE id = %s",
            [decision, theirs],
        )
    )
    report = _backfill(connection, workspace)
    assert (report.updated, report.changed_meanwhile, report.exit_code) == (1, 1, 0)
    assert column(connection, "backtest_runs", "kb_status_changed_by", theirs) == "alice"
    assert _status(connection, ours) == "candidate"
    assert connection.execute("SELECT source_id FROM kb_status_history").fetchall() == [(ours,)]


def test_a_decision_without_a_name_is_one_too(
    connection: Connection, workspace: Workspace, meddle: Any
) -> None:
    run_id = add_run(connection, workspace)
    meddle(("UPDATE backtest_runs SET kb_status = 'rejected' WHERE id = %s", [run_id]))
    assert _backfill(connection, workspace).changed_meanwhile == 1
    assert _status(connection, run_id) == "rejected"


def test_excluded_and_back_again_is_a_decision_too(
    connection: Connection, workspace: Workspace, meddle: Any
) -> None:
    run_id = add_run(connection, workspace)
    update = "UPDATE backtest_runs SET kb_status = %s, kb_status_changed_by = 'alice' WHERE id = %s"
    meddle((update, ["candidate", run_id]), (update, ["excluded", run_id]))
    report = _backfill(connection, workspace)
    assert (report.updated, report.skipped) == (0, {"human_decision": 1})
    assert _status(connection, run_id) == "excluded"


def test_a_row_touched_in_another_column_is_read_and_written_again(
    connection: Connection, workspace: Workspace, meddle: Any
) -> None:
    run_id = add_run(connection, workspace)
    meddle(("UPDATE backtest_runs SET engine = 'other' WHERE id = %s", [run_id]))
    report = _backfill(connection, workspace)
    assert (report.updated, report.changed_meanwhile, report.conflicts) == (1, 0, 0)


def test_a_metric_that_became_worse_meanwhile_is_judged_anew(
    connection: Connection, workspace: Workspace, meddle: Any
) -> None:
    run_id = add_run(connection, workspace)
    meddle(("UPDATE backtest_runs SET summary = '{\"trades\": 1}' WHERE id = %s", [run_id]))
    assert _backfill(connection, workspace).skipped == {"insufficient_oos_trades": 1}
    assert _status(connection, run_id) == "excluded"


def test_a_deleted_row_counts_as_changed_meanwhile(
    connection: Connection, workspace: Workspace, meddle: Any
) -> None:
    run_id = add_run(connection, workspace)
    meddle(("DELETE FROM backtest_runs WHERE id = %s", [run_id]))
    assert _backfill(connection, workspace).changed_meanwhile == 1


def test_a_row_that_stays_locked_is_a_conflict_and_the_others_are_done(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    locked, free = add_run(connection, workspace), add_run(connection, workspace)
    connection.execute("SET lock_timeout = '20ms'")
    with connect(database_url) as other, other.transaction():
        other.execute("SELECT 1 FROM backtest_runs WHERE id = %s FOR UPDATE", [locked])
        report = _backfill(connection, workspace, batch_size=1)
    assert (report.updated, report.conflicts, report.exit_code) == (1, 1, 3)
    assert (_status(connection, locked), _status(connection, free)) == ("excluded", "candidate")
    assert _backfill(connection, workspace).updated == 1, "the next run catches up"
