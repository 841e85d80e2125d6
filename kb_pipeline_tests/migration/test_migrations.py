"""The migrations make a platform's database or adopt one, and survive being interrupted."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from kb_pipeline.errors import MigrationError
from kb_pipeline.sql import statement
from kb_pipeline.storage import migrations
from kb_pipeline.storage.embedded import _program
from kb_pipeline.storage.guards import missing_guards, secure
from kb_pipeline.storage.migrations import migrate, pending
from kb_pipeline.storage.paths import migrations_directory
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.acceptance.commands import run_here
from kb_pipeline_tests.conftest import as_app

FILES = sorted(path.stem for path in migrations_directory().glob("*.sql"))
PLATFORM = Path(__file__).with_name("platform_031.sql").read_text()
GOLDEN = Path(__file__).parent.parent / "golden"
REQUIRED = {"workspaces", "kb_entities", "backtest_runs", "backtest_tunes", "backtest_tune_runs"}
OURS_ALONE = {
    *("kb_trials", "kb_regime_uplift", "kb_regime_changes", "kb_regime_vectors", "kb_regime_scales"),
    *("kb_drift_evaluations", "kb_drift_events", "recommend_events"),
}
OPTIONAL = ("kb_strategy_specs", "run_plans", "kb_status_history", "kb_trial_index", "kb_backfill_runs")


def _golden(name: str) -> set[tuple[str, ...]]:
    with (GOLDEN / name).open(newline="") as file:
        return set(map(tuple, list(csv.reader(file))[1:]))


def _columns(session: Connection) -> set[tuple[str, ...]]:
    return set(
        session.execute(
            "SELECT table_name, column_name, data_type, lower(is_nullable), column_default"
            "  FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE '%yoyo%'"
        )
    )


def _without_id_function(columns: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
    return {
        (*rest, str(default).replace("extensions.uuid_generate_v4", "gen_random_uuid"))
        for *rest, default in columns
    }


def _definitions(session: Connection) -> set[tuple[str, str, str]]:
    """Return constraints, indexes and triggers as (table, kind or name, definition)."""
    return set(
        session.execute(
            "SELECT conrelid::regclass::text, 'constraint', pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace AND contype <> 'n'"
            " UNION SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
            " UNION SELECT tgrelid::regclass::text, 'trigger', tgname FROM pg_trigger WHERE NOT tgisinternal"
        )
    )


def _digests(session: Connection, columns: set[tuple[str, ...]]) -> dict[str, str]:
    """Return a digest per table of all its rows, over the columns given."""
    digests = {}
    for table in {column[0] for column in columns} - {"kb_eligible_trials"}:
        names = sorted(column[1] for column in columns if column[0] == table)
        row = session.execute(
            sql.SQL(
                "SELECT count(*) || md5(string_agg(t::text, '|' ORDER BY t::text))"
                " FROM (SELECT {} FROM {}) AS t"
            ).format(sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(table))
        ).fetchone()
        digests[table] = row[0] if row else ""
    return digests


@pytest.fixture
def platform_url(empty_database_url: str) -> str:
    """Return the URL of a platform's own database at 031, with rows."""
    with connect(empty_database_url) as session:
        session.execute(PLATFORM.encode())
    return empty_database_url


def test_an_empty_database_gets_every_table_column_and_index_of_the_platform(connection: Connection) -> None:
    assert _golden("platform_columns.csv") <= {column[:4] for column in _columns(connection)}
    assert _golden("platform_indexes.csv") <= {definition[:2] for definition in _definitions(connection)}


def test_a_second_migration_applies_nothing(empty_database_url: str) -> None:
    assert pending(empty_database_url) == FILES
    assert migrate(empty_database_url) == migrations.MigrationReport(FILES, 0)
    assert pending(empty_database_url) == []
    assert migrate(empty_database_url) == migrations.MigrationReport([], len(FILES))


def test_looking_for_what_is_pending_leaves_no_trace(empty_database_url: str) -> None:
    pending(empty_database_url)
    with connect(empty_database_url) as session:
        assert session.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (
            0,
        )


def test_every_file_may_be_applied_to_a_database_that_has_it(database_url: str) -> None:
    with connect(database_url) as session:
        before = _columns(session), _definitions(session)
        for path in sorted(migrations_directory().glob("*.sql")):
            session.execute(path.read_bytes())
        assert (_columns(session), _definitions(session)) == before


def test_adopting_a_platform_changes_no_row_and_nothing_that_was_there(platform_url: str) -> None:
    with connect(platform_url) as session:
        columns, definitions = _columns(session), _definitions(session)
        digests = _digests(session, columns)
        migrate(platform_url)
        assert _digests(session, columns) == digests
        assert columns <= _columns(session)
        replaced = definitions - _definitions(session)
        assert _forced(session).isdisjoint({column[0] for column in columns})
    # Only the two checks that 034 widens.
    assert {table for table, _, _ in replaced} == {"kb_backfill_runs"}
    assert len(replaced) == 2


def _forced(session: Connection) -> set[str]:
    """Return the tables that row-level security is forced on."""
    return {
        name
        for (name,) in session.execute(
            "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity"
        )
    }


def test_an_adopted_database_that_is_secured_ends_up_like_a_fresh_one(
    platform_url: str, connection: Connection
) -> None:
    migrate(platform_url)
    with connect(platform_url) as adopted:
        give = sql.SQL(statement("roles.give_tables"))
        adopted.execute(give.format(owner=sql.Identifier("kb_owner")))
        adopted.execute("GRANT CREATE ON SCHEMA public TO kb_owner")
        assert _forced(adopted) == {name for name in _forced(connection) if name in OURS_ALONE}
    owner_url = platform_url.replace("//kb@", "//kb_owner@")
    commands = missing_guards(owner_url)
    assert secure(owner_url) == commands
    assert secure(owner_url) == missing_guards(owner_url) == []
    with connect(platform_url) as adopted:
        assert _forced(adopted) == _forced(connection)
        assert _without_id_function(_columns(adopted)) == _without_id_function(_columns(connection))
        assert _definitions(adopted) == _definitions(connection)


def test_securing_says_first_what_it_takes_and_is_done_by_the_owner_when_told_to(
    platform_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KB_DATABASE_URL", as_app(platform_url))
    monkeypatch.setenv("KB_OWNER_DATABASE_URL", platform_url)
    assert run_here("db", "migrate").returncode == 0
    planned = run_here("db", "secure").stdout.splitlines()
    assert planned[-1] == f"-- {len(planned) - 1} statements. To run them: kb-pipeline db secure --yes"
    with connect(platform_url) as session:
        assert "backtest_runs" not in _forced(session)
        assert run_here("db", "secure", "--yes").stdout.splitlines() == planned[:-1]
        assert "backtest_runs" in _forced(session)
    assert run_here("db", "secure").stdout == "The workspaces of every table are kept apart.\n"


def test_rows_that_cross_workspaces_keep_a_platform_from_being_secured(platform_url: str) -> None:
    migrate(platform_url)
    with connect(platform_url) as session:
        session.execute("UPDATE backtest_tunes SET best_run_id = (SELECT id FROM backtest_runs LIMIT 1)")
        session.execute("INSERT INTO workspaces (name, slug) VALUES ('Other', 'other')")
        session.execute(
            "UPDATE backtest_runs SET workspace_id = (SELECT id FROM workspaces WHERE slug = 'other')"
        )
        with pytest.raises(MigrationError, match=r"stay as they were: .*_in_workspace"):
            secure(platform_url)
        assert "backtest_runs" not in _forced(session)


def test_a_platform_with_the_five_required_tables_only_gets_the_others(platform_url: str) -> None:
    with connect(platform_url) as session:
        session.execute("DROP VIEW kb_eligible_trials")
        for table in OPTIONAL:
            session.execute(sql.SQL("DROP TABLE {} CASCADE").format(sql.Identifier(table)))
        columns, definitions = _columns(session), _definitions(session)
        digests = _digests(session, columns)
        assert digests.keys() == REQUIRED
        migrate(platform_url)
        assert _digests(session, columns) == digests
        assert columns <= _columns(session)
        assert definitions <= _definitions(session)
        assert _golden("platform_columns.csv") <= {column[:4] for column in _columns(session)}


def test_an_index_that_an_adopted_table_cannot_carry_is_left_out(platform_url: str) -> None:
    with connect(platform_url) as session:
        # Two entities that differ in case only, and a table from before the column existed.
        session.execute("DROP INDEX idx_kb_entities_unique_name")
        session.execute(
            "INSERT INTO kb_entities (type, name, workspace_id)"
            " SELECT type, 'BREAKOUT', workspace_id FROM kb_entities WHERE workspace_id IS NOT NULL"
        )
        session.execute("ALTER TABLE kb_trial_index DROP COLUMN archived_at CASCADE")
        migrate(platform_url)
        made = {definition[1] for definition in _definitions(session)}
    assert made.isdisjoint({"idx_kb_entities_unique_name", "idx_kb_trial_index_archived"})
    assert "idx_kb_trial_index_qdrant" in made


def test_032_applies_by_hand_and_twice_to_a_platform_and_migrating_goes_on_from_there(
    platform_url: str,
) -> None:
    psql = [_program("psql"), platform_url, "-qX", "-v", "ON_ERROR_STOP=1", "-f"]
    for _ in range(2):
        subprocess.run([*psql, str(migrations_directory() / "032_tune_regime_attribution.sql")], check=True)
    with connect(platform_url) as session:
        keys = session.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE contype = 'f' AND pg_get_constraintdef(oid) LIKE '%best_oos_run_id%'"
        ).fetchall()
    assert keys == [("FOREIGN KEY (best_oos_run_id) REFERENCES backtest_runs(id) ON DELETE SET NULL",)]
    assert migrate(platform_url).applied == FILES


def test_deleting_the_best_run_of_a_tune_leaves_the_tune(platform_url: str) -> None:
    migrate(platform_url)
    with connect(platform_url) as session:
        session.execute("UPDATE backtest_tunes SET best_oos_run_id = best_run_id")
        session.execute("DELETE FROM backtest_runs WHERE run_kind = 'tune_variant'")
        assert session.execute("SELECT best_oos_run_id FROM backtest_tunes").fetchall() == [(None,)]


def test_the_ledger_takes_the_new_kinds_and_states_and_no_others(platform_url: str) -> None:
    migrate(platform_url)
    change = "UPDATE kb_backfill_runs SET backfill_type = %s, status = %s"
    with connect(platform_url) as session:
        for kind in ("candidacy", "regime", "attribution", "trials"):
            session.execute(change, [kind, "interrupted"])
        for bad in (("nonsense", "running"), ("regime", "nonsense")):
            with pytest.raises(psycopg.errors.CheckViolation):
                session.execute(change, bad)


def test_a_migration_killed_in_the_middle_is_finished_by_the_next(platform_url: str) -> None:
    command = "import sys; from kb_pipeline.storage.migrations import migrate; migrate(sys.argv[1])"
    with connect(platform_url) as session:
        with session.transaction():
            session.execute("LOCK TABLE backtest_tunes IN ROW EXCLUSIVE MODE")
            process = subprocess.Popen([sys.executable, "-c", command, platform_url])
            _wait_until_it_waits_for_the_table(platform_url)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        # yoyo's own lock still names the dead process; on its own it would wait for it for ever.
        assert session.execute("SELECT pid FROM yoyo_lock").fetchall() == [(process.pid,)]
        assert pending(platform_url) == FILES[2:]
    assert migrate(platform_url).applied == FILES[2:]


def _wait_until_it_waits_for_the_table(url: str) -> None:
    with connect(url) as session:
        for _ in range(300):
            waiting = session.execute(
                "SELECT FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock' AND query LIKE '%ALTER TABLE backtest_tunes%'"
            )
            if waiting.fetchone() is not None:
                return
            time.sleep(0.05)
    pytest.fail("the migration never came to the locked table")


def test_a_table_in_use_ends_the_migration_with_the_name_of_its_user(
    platform_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "MIGRATION_LOCK_WAIT_S", 0.1)
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 100)
    with connect(platform_url, application_name="nightly report") as reader, reader.transaction():
        reader.execute("SELECT FROM backtest_tunes")
        with pytest.raises(
            MigrationError, match=r"032_tune_regime_attribution .*nightly report, idle in transaction"
        ):
            migrate(platform_url)
    assert migrate(platform_url).applied == FILES[2:]


def test_a_second_migration_at_the_same_time_waits_and_then_names_the_first(
    platform_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "MIGRATION_LOCK_WAIT_S", 0.1)
    with connect(platform_url) as first:
        first.execute("SELECT pg_advisory_lock(%s)", [migrations._LOCK_KEY])
        with pytest.raises(MigrationError, match=f"server process {first.info.backend_pid}"):
            migrate(platform_url)


def test_a_user_who_may_not_create_tables_is_told_so(empty_database_url: str, server: str) -> None:
    with connect(empty_database_url) as session:
        session.execute("CREATE ROLE reader LOGIN")
        try:
            with pytest.raises(MigrationError, match="'reader' may not create tables in schema 'public'"):
                migrate(re.sub("//kb@", "//reader@", empty_database_url))
        finally:
            session.execute("DROP ROLE reader")


def test_a_broken_file_is_named_and_leaves_nothing(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "001_break.sql").write_text("CREATE TABLE half (id int);\nSELECT 1 / 0;\n")
    monkeypatch.setattr(migrations, "migrations_directory", lambda: tmp_path)
    with pytest.raises(MigrationError, match="001_break was refused by the database: division by zero"):
        migrate(empty_database_url)
    with connect(empty_database_url) as session:
        assert session.execute("SELECT to_regclass('half')").fetchone() == (None,)


def test_a_directory_without_migrations_is_not_an_up_to_date_database(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "migrations_directory", lambda: tmp_path)
    with pytest.raises(MigrationError, match="holds no migrations"):
        migrate(empty_database_url)
    with pytest.raises(MigrationError, match="holds no migrations"):
        pending(empty_database_url)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("1.5", 1.5),
        ("-12", -12.0),
        ("0", 0.0),
        ("1e308", 1e308),
        ("1.7976931348623157e308", 1.7976931348623157e308),
        ("-1.7976931348623157e308", -1.7976931348623157e308),
        ("1.8e308", None),
        ("1e400", None),
        ("-1e400", None),
        ("1e5000", None),
        ("1e-400", 0.0),
        ("-1e-400", 0.0),
        ("5e-324", 5e-324),
        ("2.5e-324", 0.0),
        ('"1.5"', None),
        ('"NaN"', None),
        ("null", None),
        ("true", None),
        ("[1]", None),
        ('{"a": 1}', None),
        (None, None),
    ],
)
def test_a_stored_metric_is_a_finite_number_or_null(
    connection: Connection, value: str | None, number: float | None
) -> None:
    assert connection.execute("SELECT kb_finite_number(%s::jsonb)", [value]).fetchone() == (number,)


def test_reading_a_metric_costs_no_function_call(connection: Connection) -> None:
    plan = connection.execute(
        "EXPLAIN VERBOSE SELECT kb_finite_number(summary -> 'sharpe') FROM backtest_runs"
    ).fetchall()
    assert "CASE" in str(plan)
    assert "kb_finite_number" not in str(plan)


def test_a_broken_metric_does_not_fail_a_read_of_the_eligible_trials(
    connection: Connection, workspace: object
) -> None:
    connection.execute(
        "INSERT INTO backtest_runs (workspace_id, strategy_entity_id, status, run_kind, kb_status, summary)"
        " SELECT workspace_id, id, 'completed', 'test_variant', 'promoted',"
        '        \'{"sharpe": "high", "trade_count": 1e300, "return_pct": 12.5}\' FROM kb_entities'
    )
    row = connection.execute(
        "SELECT sharpe_oos, n_trades_oos, return_frac_oos, strategy_name, experiment_type, objective_type"
        "  FROM kb_eligible_trials"
    ).fetchall()
    assert row == [(None, None, 12.5, "trend_following", "sweep", "sharpe")]
