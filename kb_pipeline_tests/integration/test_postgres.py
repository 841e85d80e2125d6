"""Connections, database URLs and what their errors may show."""

import traceback
from contextlib import suppress

import psycopg
import pytest
import sqlalchemy
from psycopg import sql
from psycopg.pq import TransactionStatus

from kb_pipeline.errors import DatabaseError, DatabaseUrlError
from kb_pipeline.storage.postgres import Connection, connect, database_url, ensure_database
from kb_pipeline.storage.urls import parse_database_url, redact
from kb_pipeline_tests.conftest import Workspace, as_app

CANARY = "canary-7f3a"


def _setting(connection: Connection, name: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize(
    ("url", "host", "port", "user", "password", "database"),
    [
        ("postgresql://ann:pw@db.example:6432/quant", "db.example", 6432, "ann", "pw", "quant"),
        ("postgres://ann@db.example/quant", "db.example", None, "ann", None, "quant"),
        ("postgresql:///quant", None, None, None, None, "quant"),
        ("postgresql://kb@/kb?host=/run/a%20b%26c&port=5432", "/run/a b&c", 5432, "kb", None, "kb"),
        ("postgresql://ann:p%40s%2Fs%3F%23%25:x@h/q", "h", None, "ann", "p@s/s?#%:x", "q"),
        ("postgresql://a%40b:pw@[::1]:5432/q%20d", "::1", 5432, "a@b", "pw", "q d"),
        ("postgresql://h/q?user=ann&password=p%26w&sslmode=require", "h", None, "ann", "p&w", "q"),
        ("postgresql://ann:a+b@h/q", "h", None, "ann", "a+b", "q"),
        ("postgresql://ann:@h/q", "h", None, "ann", None, "q"),
    ],
)
def test_a_url_is_read_part_by_part_and_written_back_to_the_same(
    url: str, host: str | None, port: int | None, user: str | None, password: str | None, database: str
) -> None:
    target = parse_database_url(url)
    assert (target.host, target.port, target.user, target.password) == (host, port, user, password)
    assert target.database == database
    assert parse_database_url(target.text()) == target


MALFORMED = [
    f"postgresql+psycopg://ann:{CANARY}@h/q",
    f"postgresql+psycopg2://ann:{CANARY}@h/q",
    f"postgres+asyncpg://ann:{CANARY}@h/q",
    f"mysql://ann:{CANARY}@h/q",
    f"sqlite:///{CANARY}.db",
    f"{CANARY}://ann@h/q",
    f"host=h user=ann password={CANARY} dbname=q",
    f"ann:{CANARY}@h/q",
    f"postgresql:ann:{CANARY}@h/q",
    f"postgresql:/ann:{CANARY}@h/q",
    f"postgresql://ann:{CANARY}@h",
    f"postgresql://ann:{CANARY}@h/",
    f"postgresql://ann:{CANARY}@h:port/q",
    f"postgresql://ann:{CANARY}@h:/q",
    f"postgresql://ann:{CANARY}@h:0/q",
    f"postgresql://ann:{CANARY}@h:65536/q",
    f"postgresql://ann:12/{CANARY}@h/q",
    f"postgresql://ann:/{CANARY}@h/q",
    f"postgresql://ann:12?{CANARY}@h/q",
    f"postgresql://ann:12#{CANARY}@h/q",
    f"postgresql://ann:12@{CANARY}@h/q",
    f"postgresql://ann:%zz{CANARY}@h/q",
    f"postgresql://ann:{CANARY}%@h/q",
    f"postgresql://ann:{CANARY}%00@h/q",
    f"postgresql://ann:{CANARY}%ff@h/q",
    f"postgresql://ann:{CANARY} x@h/q",
    f"postgresql://ann:{CANARY}\n@h/q",
    f"postgresql://ann:{CANARY}@[::1/q",
    f"postgresql://ann:{CANARY}@h,i/q",
    f"postgresql://ann:{CANARY}@h/q#{CANARY}",
    f"postgresql://ann:{CANARY}@h/q/r",
    f"postgresql://ann:{CANARY}@h/q?{CANARY}",
    f"postgresql://ann:{CANARY}@h/q?{CANARY}=1",
    f"postgresql://ann:{CANARY}@h/q?password={CANARY}",
    f"postgresql://ann@h/q?password={CANARY}&password={CANARY}",
    f"postgresql://ann:{CANARY}@h/q?dbname=other",
    f"postgresql://ann:{CANARY}@h/q?host=/tmp",
    "",
]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_url_that_could_be_read_two_ways_is_refused_without_showing_any_of_it(url: str) -> None:
    with pytest.raises(DatabaseUrlError) as refusal:
        parse_database_url(url)
    shown = "".join(traceback.format_exception(refusal.value, chain=True)).split("Error: ", 1)[1]
    assert CANARY not in shown
    assert refusal.value.__cause__ is None
    assert CANARY not in redact(url)


def test_a_password_shows_in_no_text_form() -> None:
    url = f"postgresql://ann:{CANARY}@db.example:6432/quant?sslpassword={CANARY}"
    target = parse_database_url(url)
    assert redact(url) == "postgresql://ann:***@db.example:6432/quant"
    assert CANARY not in repr(target) + target.place
    assert target.place == "database 'quant' at db.example:6432"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{CANARY}@127.0.0.1:1/q",
        f"postgresql://ann:{CANARY}@a..b/q",
        f"postgresql://ann:{CANARY}@{'x' * 300}/q",
        f"postgresql://ann:{CANARY}@h/q?connect_timeout=soon",
        f"postgresql://ann:{CANARY}@127.0.0.1/q?sslmode=bad",
        f"postgresql://ann:{CANARY}@/q?host=/nowhere",
        f"postgresql://ann:{CANARY}@127.0.0.1:1/q?sslpassword={CANARY}",
    ],
)
def test_a_database_out_of_reach_is_named_by_host_and_database_alone(url: str) -> None:
    with pytest.raises(DatabaseError, match=r"^Cannot connect to database 'q' at ") as failure:
        connect(url)
    assert CANARY not in str(failure.value)
    # The connection error and its frames hold the arguments; nothing may print them along.
    assert failure.value.__suppress_context__


def test_a_missing_database_is_named(server: str) -> None:
    with pytest.raises(DatabaseError, match=r"database 'nowhere' at /.*does not exist"):
        connect(server.replace("/kb?", "/nowhere?"))


def test_a_session_is_in_utc_commits_by_itself_and_waits_for_nothing_for_long(connection: Connection) -> None:
    assert connection.autocommit
    expected = {
        "TimeZone": "UTC",
        "lock_timeout": "2s",
        "statement_timeout": "30s",
        "idle_in_transaction_session_timeout": "10s",
        "client_connection_check_interval": "2s",
        "application_name": "kb-pipeline",
    }
    assert {name: _setting(connection, name) for name in expected} == expected


def test_a_session_without_timeouts_has_none_even_where_the_role_has(server: str) -> None:
    with connect(server) as admin:
        admin.execute("ALTER ROLE kb SET statement_timeout = '5s'")
        try:
            with connect(server, timeouts=False, application_name="long work") as session:
                assert _setting(session, "statement_timeout") == "0"
                assert _setting(session, "application_name") == "long work"
        finally:
            admin.execute("ALTER ROLE kb RESET statement_timeout")


def test_a_session_whose_limits_cannot_be_set_is_not_used(database_url: str) -> None:
    with connect(database_url) as admin:
        admin.execute("REVOKE EXECUTE ON FUNCTION pg_catalog.set_config FROM PUBLIC")
        admin.execute("CREATE ROLE visitor LOGIN")
        try:
            with pytest.raises(DatabaseError, match=r"^Cannot use database .* permission denied"):
                connect(database_url.replace("//kb@", "//visitor@"))
        finally:
            admin.execute("DROP ROLE visitor")


def test_a_statement_that_is_run_often_is_not_prepared(connection: Connection) -> None:
    for _ in range(10):
        connection.execute("SELECT %s::int", [1])
    assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_a_session_ends_up_nowhere_else_because_of_the_environment(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "6000")
    monkeypatch.setenv("PGHOST", "elsewhere.example")
    with connect(database_url) as session:
        assert session.info.dbname == parse_database_url(database_url).database


def test_the_url_given_wins_over_the_environment_and_that_over_the_embedded_server(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert database_url() == as_app(server)
    monkeypatch.setenv("KB_DATABASE_URL", " ")
    assert database_url() == as_app(server)
    monkeypatch.setenv("KB_DATABASE_URL", "postgresql://h/from_environment")
    assert database_url() == "postgresql://h/from_environment"
    assert database_url("postgresql://h/given") == "postgresql://h/given"
    monkeypatch.setenv("KB_DATABASE_URL", "mysql://h/q")
    with pytest.raises(DatabaseUrlError):
        database_url()


def test_a_database_is_made_once(server: str) -> None:
    name = 'dagster "x" %'
    url = ensure_database(server, name)
    try:
        assert ensure_database(server, name) == url
        with connect(url) as session:
            assert session.info.dbname == name
    finally:
        with connect(server) as admin:
            admin.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def test_a_database_that_may_not_be_made_is_named(server: str) -> None:
    with connect(server) as admin:
        admin.execute("CREATE ROLE visitor LOGIN")
        try:
            with pytest.raises(
                DatabaseError, match=r"database 'visited' at .* could not be made: permission denied"
            ):
                ensure_database(server.replace("//kb@", "//visitor@"), "visited")
        finally:
            admin.execute("DROP ROLE visitor")


def test_the_url_of_the_embedded_server_serves_psycopg2_and_sqlalchemy_too(database_url: str) -> None:
    # What Dagster's own storage goes through.
    engine = sqlalchemy.create_engine(database_url.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.connect() as session:
        assert session.execute(sqlalchemy.text("SELECT count(*) FROM backtest_runs")).scalar() == 0
    engine.dispose()


def _add(connection: Connection, *names: str) -> None:
    for name in names:
        connection.execute(
            "INSERT INTO kb_entities (workspace_id, type, name) VALUES (%s, 'strategy', nullif(%s, ''))",
            [connection.workspace_id, name],
        )


def _added(connection: Connection) -> list[str]:
    found = connection.execute("SELECT name FROM kb_entities WHERE name LIKE 'quick %' ORDER BY name")
    return [row[0] for row in found]


def test_a_quick_transaction_keeps_what_was_done_in_it(connection: Connection, workspace: Workspace) -> None:
    with connection.working_in(workspace.id):
        with connection.quick_transaction():
            _add(connection, "quick 1")
            assert _added(connection) == ["quick 1"]
            with connection.transaction():
                _add(connection, "quick 2")
        with connection.transaction(force_rollback=True), connection.quick_transaction():
            _add(connection, "quick 3")
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert _added(connection) == ["quick 1", "quick 2"]


@pytest.mark.parametrize("names", [("quick", "", "quick 2"), ("quick 1", ""), ("",)])
def test_a_quick_transaction_that_fails_keeps_nothing(
    connection: Connection, workspace: Workspace, names: tuple[str, ...]
) -> None:
    with connection.working_in(workspace.id):
        with pytest.raises(psycopg.errors.NotNullViolation), connection.quick_transaction():
            _add(connection, *names)
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert _added(connection) == []


def test_a_quick_transaction_is_left_by_any_exception(connection: Connection, workspace: Workspace) -> None:
    with connection.working_in(workspace.id), suppress(KeyError), connection.quick_transaction():
        _add(connection, "quick 1")
        raise KeyError
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert _added(connection) == []
