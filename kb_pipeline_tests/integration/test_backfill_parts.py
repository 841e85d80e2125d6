"""Ranges of rows shared out by leases: each row once, nobody beside a writer of the whole."""

from uuid import UUID

import psycopg
import pytest

from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.errors import AlreadyRunningError, DatabaseError
from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage import backfill_parts
from kb_pipeline.storage.backfill_parts import Lease, Part, Scope
from kb_pipeline.storage.backfill_runs import Span
from kb_pipeline.storage.locks import writer_lock
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.builders import add_run, column
from kb_pipeline_tests.conftest import Workspace


def _plan(connection: Connection, plan: str, workspace: Workspace, rows: int = 2) -> list[Part]:
    scope = Scope(BackfillKind.CANDIDACY, workspace.id)
    parts = backfill_parts.cut(connection, "quant", scope, since=None, rows=rows)
    backfill_parts.write_plan(connection, plan, {}, lambda: parts)
    return parts


def _mark(connection: Connection, workspace: Workspace, lease: Lease) -> int:
    request = CandidacyRequest(workspace_id=workspace.id, part=lease.span)
    return backfill_candidacy(connection, request, dry_run=False).updated


def _runs(connection: Connection, workspace: Workspace, count: int = 5) -> list[UUID]:
    return [add_run(connection, workspace) for _ in range(count)]


def test_the_parts_cover_every_row_once(connection: Connection, workspace: Workspace) -> None:
    runs = _runs(connection, workspace)
    # 2 and 2 rows, and one with the rest and all that is to come.
    parts = _plan(connection, "p", workspace)
    assert [part.span.after for part in parts[1:]] == [part.span.until for part in parts[:-1]]
    updated = []
    for lease in backfill_parts.leases(connection, "p"):
        updated.append(_mark(connection, workspace, lease))
        lease.finish({"updated": updated[-1]})
    assert updated == [2, 2, 1]
    assert {column(connection, "backtest_runs", "kb_status", run) for run in runs} == {"candidate"}


def test_two_processes_never_hold_the_same_part(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    _runs(connection, workspace)
    _plan(connection, "p", workspace)
    with connect(database_url) as other:
        mine, theirs = backfill_parts.leases(connection, "p"), backfill_parts.leases(other, "p")
        assert next(mine).span != next(theirs).span


def test_a_part_whose_process_dies_is_free_at_once_and_goes_on_where_it_stopped(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    _runs(connection, workspace)
    _plan(connection, "p", workspace, rows=10)
    dying = connect(database_url)
    leases = backfill_parts.leases(dying, "p")
    span = next(leases).span
    dying.close()  # with its session go its locks
    leases.close()
    holding = backfill_parts.leases(connection, "p")
    again = next(holding)
    assert (again.span, again._attempt) == (span, 2)


def test_a_part_is_begun_four_times_at_most(connection: Connection, workspace: Workspace) -> None:
    _plan(connection, "p", workspace)
    for _ in range(backfill_parts.MAX_ATTEMPTS):
        holding = backfill_parts.leases(connection, "p")
        next(holding)
        holding.close()
    assert list(backfill_parts.leases(connection, "p")) == []
    (outcome,) = backfill_parts.outcome(connection, "p")
    assert not outcome.done


def test_a_failure_that_no_repetition_mends_is_not_repeated(
    connection: Connection, workspace: Workspace
) -> None:
    _plan(connection, "p", workspace)
    for lease in backfill_parts.leases(connection, "p"):
        lease.fail(DatabaseError("no such file"), final=True)
    assert [it.error for it in backfill_parts.outcome(connection, "p")] == ["no such file"]


def test_another_plan_waits_for_the_rows_it_shares_and_for_no_others(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    _runs(connection, workspace, 4)
    _plan(connection, "first", workspace, rows=2)  # rows 1-2, 3-4, and what is to come
    _plan(connection, "second", workspace, rows=3)  # rows 1-3, and the rest
    first = backfill_parts.leases(connection, "first")
    held = next(first)
    with connect(database_url) as other:
        second = backfill_parts.leases(other, "second")
        # The part after row 3; the one before it shares rows with the one held.
        assert next(second).span.after != Span().after
        assert held.span.after == Span().after


def test_a_writer_of_the_whole_and_parts_exclude_each_other(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    _runs(connection, workspace)
    _plan(connection, "p", workspace)
    holding = backfill_parts.leases(connection, "p")
    lease = next(holding)
    with connect(database_url, application_name="whole") as other:
        with (
            writer_lock(other, BackfillKind.CANDIDACY, workspace.id),
            pytest.raises(AlreadyRunningError, match="already running: whole"),
        ):
            _mark(connection, workspace, lease)
        with writer_lock(connection, BackfillKind.CANDIDACY, workspace.id, part=True):
            with pytest.raises(AlreadyRunningError):
                backfill_candidacy(other, CandidacyRequest(workspace_id=workspace.id), dry_run=False)
            with writer_lock(other, BackfillKind.CANDIDACY, workspace.id, part=True):
                pass  # parts do not exclude each other here, but by their leases


def test_a_part_does_not_close_the_ledger_row_of_another_that_is_at_work(
    connection: Connection, workspace: Workspace
) -> None:
    _runs(connection, workspace)
    _plan(connection, "p", workspace)
    connection.execute(
        "INSERT INTO kb_backfill_runs (workspace_id, backfill_type, status, config, config_hash, holder)"
        " VALUES (%s, 'candidacy', 'running', '{}', 'of another part', 'process 1')",
        [workspace.id],
    )
    for lease in backfill_parts.leases(connection, "p"):
        _mark(connection, workspace, lease)
        lease.finish({})
    states = connection.execute("SELECT status, count(*) FROM kb_backfill_runs GROUP BY 1").fetchall()
    assert sorted(states) == [("completed", 3), ("running", 1)]
    backfill_candidacy(connection, CandidacyRequest(workspace_id=workspace.id), dry_run=False)
    assert (
        connection.execute("SELECT status FROM kb_backfill_runs WHERE status = 'running'").fetchone() is None
    )


def test_a_plan_made_twice_is_made_once(connection: Connection, workspace: Workspace) -> None:
    _runs(connection, workspace)
    _plan(connection, "p", workspace, rows=2)
    _plan(connection, "p", workspace, rows=1)
    assert len(backfill_parts.outcome(connection, "p")) == 3


def test_a_whole_span_keeps_the_place_of_ordinary_calls(connection: Connection, workspace: Workspace) -> None:
    # A limit is a budget: parts that stand for all rows go on where a call of the same settings stopped.
    _runs(connection, workspace, 3)
    request = CandidacyRequest(workspace_id=workspace.id, limit=1, part=Span())
    backfill_candidacy(connection, request, dry_run=False)
    assert (
        backfill_candidacy(
            connection, CandidacyRequest(workspace_id=workspace.id, limit=1), dry_run=False
        ).updated
        == 1
    )
    cursors = connection.execute("SELECT DISTINCT config_hash FROM kb_backfill_runs").fetchall()
    assert len(cursors) == 1


def test_a_plan_of_a_workspace_that_is_deleted_goes_with_it(
    connection: Connection, workspace: Workspace
) -> None:
    _plan(connection, "p", workspace)
    connection.execute("DELETE FROM kb_entities WHERE workspace_id = %s", [workspace.id])
    connection.execute("DELETE FROM workspaces WHERE id = %s", [workspace.id])
    assert backfill_parts.outcome(connection, "p") == []
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        _plan(connection, "q", workspace)
