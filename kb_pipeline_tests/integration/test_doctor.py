"""What `kb-pipeline doctor` finds, each fault made for real."""

import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from psycopg import sql

from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.doctor import Finding, Level, examine
from kb_pipeline.storage.locks import writer_lock
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.builders import add_run, add_tune
from kb_pipeline_tests.conftest import Workspace


def _found(check: str) -> list[Finding]:
    return [finding for finding in examine() if finding.check == check]


def _leave_running(connection: Connection, workspace_id: UUID) -> None:
    connection.execute(
        "INSERT INTO kb_backfill_runs (workspace_id, backfill_type, status, holder, updated_at)"
        " VALUES (%s, 'candidacy', 'running', 'process 7 on desk', now() - interval '3 hours')",
        [workspace_id],
    )


@pytest.fixture
def poor_role(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A role that may look at everything and change nothing; KB_DATABASE_URL connects as it."""
    name = sql.Identifier("doctor_reader")
    connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(name))
    connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(name))
    url = os.environ["KB_DATABASE_URL"].replace("//kb_app@", "//doctor_reader:secret@")
    monkeypatch.setenv("KB_DATABASE_URL", url)
    yield "doctor_reader"
    connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
    connection.execute(sql.SQL("DROP ROLE {}").format(name))


def test_a_sound_database_needs_no_next_step(connection: Connection, workspace: Workspace) -> None:
    findings = list(examine())
    assert [finding.check for finding in findings] == [
        "connection",
        "schema",
        "role",
        "tenants",
        "ledger",
        "locks",
        "tunes",
        "symbols",
    ]
    assert [finding.next_step for finding in findings] == [""] * 8


def test_a_role_that_could_lift_row_level_security_is_a_finding(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_DATABASE_URL", database_url)
    (superuser,) = _found("role")
    with connect(database_url) as admin:
        admin.execute("ALTER TABLE backtest_runs OWNER TO kb_owner")
        admin.execute("GRANT kb_app TO kb_owner")
    monkeypatch.setenv("KB_DATABASE_URL", database_url.replace("//kb@", "//kb_owner@"))
    (owner,) = _found("role")
    assert superuser.found.startswith("kb is a superuser or bypasses row security")
    assert owner.found == "kb_owner owns the tables, so it could lift what keeps workspaces apart."
    for finding in (superuser, owner):
        assert finding.level == Level.WARNING
        assert finding.next_step.startswith("Connect as kb_app, or as a member of it; KB_OWNER_DATABASE_URL")


def test_tables_of_another_program_are_a_finding_until_they_are_secured(connection: Connection) -> None:
    connection.execute("INSERT INTO kb_adopted_tables (table_name) VALUES ('backtest_runs'), ('workspaces')")
    connection.execute("ALTER TABLE backtest_runs DISABLE ROW LEVEL SECURITY")
    (finding,) = _found("tenants")
    assert finding.level == Level.WARNING
    assert finding.found.endswith("by our statements alone: backtest_runs.")
    assert finding.next_step.endswith("kb-pipeline db secure")


def test_without_a_server_nothing_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KB_DATABASE_URL", "postgresql://someone:canary@127.0.0.1:1/kb")
    (finding,) = examine()
    assert (finding.check, finding.level) == ("connection", Level.FAILURE)
    assert "canary" not in finding.found
    assert "\n" not in finding.found


def test_missing_tables_are_a_failure_that_names_the_command(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_DATABASE_URL", empty_database_url)
    (schema,) = _found("schema")
    assert (schema.level, schema.next_step) == (Level.FAILURE, "Run: kb-pipeline db migrate")
    assert "000_note_adopted_tables" in schema.found
    assert _found("ledger") == []


def test_a_backfill_that_died_is_told_from_one_that_runs(
    connection: Connection, workspace: Workspace
) -> None:
    _leave_running(connection, workspace.id)
    (dead,) = _found("ledger")
    assert dead.level == Level.WARNING
    assert dead.found == (
        "The candidacy backfill of quant (process 7 on desk) ended 3 hours ago "
        "without closing its ledger row."
    )
    with writer_lock(connection, BackfillKind.CANDIDACY, workspace.id):
        (alive,) = _found("ledger")
    assert (alive.level, alive.found) == (Level.OK, "1 backfills run now.")


def test_a_session_that_waits_is_shown_with_whom_it_waits_for(
    connection: Connection, workspace: Workspace
) -> None:
    add_run(connection, workspace)
    change = "UPDATE backtest_runs SET kb_status_reason = 'held'"
    with (
        connect(application_name="slow reader") as other,
        other.working_in(workspace.id),
        connection.transaction(),
    ):
        connection.execute(change)
        waiting = threading.Thread(target=other.execute, args=(change,))
        waiting.start()
        findings: list[Finding] = []
        while not findings or findings[0].level == Level.OK:
            findings = _found("locks")
        held_by = connection.info.backend_pid
    waiting.join()
    assert "(slow reader) has waited" in findings[0].found
    assert findings[0].next_step.startswith(f"Look {held_by} up in pg_stat_activity")


def test_a_tune_that_has_waited_for_more_than_an_hour_is_named(
    connection: Connection, workspace: Workspace
) -> None:
    now = datetime.now(UTC)
    add_tune(connection, workspace, completed_at=now)
    assert _found("tunes")[0].level == Level.OK
    add_tune(connection, workspace, completed_at=now - timedelta(days=2))
    (finding,) = _found("tunes")
    assert finding.found == "2 completed tunes of quant have no regime; the first completed 2 days ago."
    assert f"--workspace-id {workspace.id} --dry-run --list" in finding.next_step


def test_a_role_that_may_not_write_is_told_what_to_grant(poor_role: str, workspace: Workspace) -> None:
    (finding,) = _found("role")
    assert finding.level == Level.FAILURE
    assert "UPDATE on backtest_runs" in finding.found
    assert finding.next_step.endswith(f"GRANT UPDATE ON backtest_runs TO {poor_role}")


def test_the_calendars_looked_at_are_those_of_the_data_root(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_DATA_ROOT", str(tmp_path))
    (finding,) = _found("symbols")
    assert finding.level == Level.WARNING
    assert finding.found.startswith(f"{tmp_path / 'symbols.yaml'}: could not be read")
