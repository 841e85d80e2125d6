"""Behind PgBouncer: transactions of one session that go to several servers are refused, not trusted."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.errors import AlreadyRunningError, PoolerError
from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage import server_account
from kb_pipeline.storage.locks import writer_lock
from kb_pipeline.storage.migrations import migrate
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline.storage.urls import parse_database_url
from kb_pipeline_tests.builders import add_run, column
from kb_pipeline_tests.conftest import Workspace
from kb_pipeline_tests.faults.proxy import Line

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
Pooler = Callable[[str], str]


@contextmanager
def _running(pool_mode: str, database_url: str) -> Iterator[str]:
    target = parse_database_url(database_url)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = Path(tempfile.mkdtemp(prefix="kbpool", dir="/tmp"))
    assert target.host is not None
    # Its account cannot pass through root's directories to the server's own socket.
    Line(place, Path(target.host) / ".s.PGSQL.5432", commit=2**31, after=False)
    users, settings = place / "users", place / "pgbouncer.ini"
    users.write_text(f'"{target.user}" ""\n')
    settings.write_text(
        f"[databases]\npooled = host={place} port=5432 dbname={target.database}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {users}\npool_mode = {pool_mode}\nmin_pool_size = 0\n"
        f"logfile = {place}/log\n"
    )
    for path in (place, *place.iterdir()):
        server_account.hand_over(path)
    account = server_account._existing()  # it refuses to run as root
    assert PROGRAM is not None
    process = subprocess.Popen(
        [PROGRAM, "-q", settings],
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
        stderr=subprocess.DEVNULL,
    )
    url = f"postgresql://{target.user}@127.0.0.1:{port}/pooled"
    try:
        _wait_for(port)
        yield url
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(place)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "PgBouncer did not start"
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def pooler(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pooler]:
    """Return what runs PgBouncer in a mode before the test's database; KB_DATABASE_URL names it then."""
    if PROGRAM is None:
        assert not os.environ.get("CI"), "PgBouncer is not installed: scripts/ensure-programs"
        pytest.skip("PgBouncer is not installed here (Debian's package: pgbouncer)")
    with ExitStack() as stack:

        def run(pool_mode: str) -> str:
            url = stack.enter_context(_running(pool_mode, database_url))
            monkeypatch.setenv("KB_DATABASE_URL", url)
            return url

        yield run


def test_session_locks_do_not_hold_behind_a_pool_of_transactions(pooler: Pooler) -> None:
    # Why it is refused: what is here called one session takes its lock on one server, and has another next.
    with ExitStack() as stack:
        url = pooler("transaction")
        ours, theirs = (
            stack.enter_context(psycopg.connect(url, autocommit=True, prepare_threshold=None)) for _ in "ab"
        )
        assert ours.execute("SELECT pg_try_advisory_lock(1)").fetchone() == (True,)
        assert theirs.execute("SELECT pg_try_advisory_lock(1)").fetchone() == (True,)


def test_a_pool_of_transactions_is_refused_and_nothing_is_left_on_its_servers(pooler: Pooler) -> None:
    url = pooler("transaction")
    with pytest.raises(PoolerError, match=r"pooler stands before database 'pooled'.*KB_DIRECT_DATABASE_URL"):
        connect()
    with pytest.raises(PoolerError):
        migrate(url)
    with psycopg.connect(url, prepare_threshold=None) as other:
        assert other.execute("SHOW lock_timeout").fetchone() == ("0",)
        assert other.execute("SHOW default_transaction_read_only").fetchone() == ("off",)


def test_beside_a_pool_of_transactions_the_direct_address_is_used(
    pooler: Pooler,
    database_url: str,
    connection: Connection,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = [add_run(connection, workspace) for _ in range(3)]
    url = pooler("transaction")
    monkeypatch.setenv("KB_DIRECT_DATABASE_URL", database_url)
    with psycopg.connect(url, prepare_threshold=None) as platform, connect() as ours:
        # The platform goes on through the pooler: a decision of its between our reading and our writing.
        platform.execute(
            "UPDATE backtest_runs SET kb_status = 'rejected', kb_status_changed_by = 'ann' WHERE id = %s",
            [runs[0]],
        )
        platform.commit()
        report = backfill_candidacy(ours, CandidacyRequest(workspace_id=workspace.id), dry_run=False)
    assert report.updated == 2
    assert column(connection, "backtest_runs", "kb_status", runs[0]) == "rejected"


def test_a_pool_of_sessions_that_is_said_to_be_one_keeps_the_one_writer(
    pooler: Pooler, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooler("session")
    with pytest.raises(PoolerError, match="KB_POOLER=session"):
        connect()
    monkeypatch.setenv("KB_POOLER", "session")
    request = CandidacyRequest(workspace_id=workspace.id)
    with connect() as ours, connect() as theirs:
        with (
            writer_lock(ours, BackfillKind.CANDIDACY, workspace.id),
            pytest.raises(AlreadyRunningError),
        ):
            backfill_candidacy(theirs, request, dry_run=False)
        assert backfill_candidacy(theirs, request, dry_run=False).scanned == 0
