"""Read database URLs and open connections.

Which database is meant, what a session's limits are and how a failed connection is reported. The
embedded server is embedded.py's, the tables are migrations.py's, and the queries are those of the
module named after their table.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, cast
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.abc import Params, Query
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from kb_pipeline import rules
from kb_pipeline.errors import DatabaseError, DatabaseUrlError, PoolerError
from kb_pipeline.sql import statement
from kb_pipeline.storage import embedded
from kb_pipeline.storage.urls import DatabaseUrl, parse_database_url


class Connection(psycopg.Connection[TupleRow]):
    """A session in autocommit mode: what must hold together stands in `with connection.transaction()`.

    While it is `working_in` a workspace, each of its transactions begins by telling Postgres which one,
    and row-level security shows and takes no other rows. What runs outside of it sees no tenant's rows.
    """

    workspace_id: UUID | None = None
    _is_begun = False  # says so before the server does

    @contextmanager
    def working_in(self, workspace_id: UUID) -> Iterator[None]:
        """Do the work of one workspace in the block; within it, another one may have its own block."""
        before, self.workspace_id = self.workspace_id, workspace_id
        is_inside = before != workspace_id and self.info.transaction_status == TransactionStatus.INTRANS
        if is_inside:
            self._name_workspace()
        try:
            yield
        finally:
            self.workspace_id = before
            if is_inside and self.info.transaction_status == TransactionStatus.INTRANS:
                self._name_workspace()

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """Open a transaction, or a savepoint in one, in the workspace that the session works in."""
        begins = self.info.transaction_status == TransactionStatus.IDLE
        with super().transaction(savepoint_name, force_rollback) as transaction:
            if begins and self.workspace_id is not None:
                self._name_workspace()
            yield transaction

    @contextmanager
    def quick_transaction(self) -> Iterator[None]:
        """Open a transaction as `transaction` does, with fewer waits for the server: for short statements.

        What opens it is sent with its first statement and what commits it with its last; a statement whose
        rows nobody fetches fails only at the end of the block.
        """
        if self.workspace_id is None or self.info.transaction_status != TransactionStatus.IDLE:
            with self.transaction():
                yield
            return
        try:
            with self.pipeline():
                self._is_begun = True
                own = self.cursor()
                own.execute("BEGIN")
                self._name_workspace()
                yield
                own.execute("COMMIT")
        except BaseException:
            if not self.closed:
                self.rollback()
            raise
        finally:
            self._is_begun = False

    def joined(self) -> AbstractContextManager[object]:
        """Return the block of the transaction that is open, else of one of its own."""
        is_idle = self.info.transaction_status == TransactionStatus.IDLE and not self._is_begun
        return self.transaction() if is_idle and self.workspace_id is not None else nullcontext()

    def execute(self, query: Query, params: Params | None = None, **options: Any) -> psycopg.Cursor[TupleRow]:
        """Run a statement in the transaction that is open, else in one of its own."""
        with self.joined():
            return super().execute(query, params, **options)  # type: ignore[arg-type]  # psycopg's own overloads

    def _name_workspace(self) -> None:
        # A utility statement, which takes no snapshot: the transaction may still choose its isolation. It
        # ends with the transaction, so that no session carries a workspace on. Empty is none.
        super().execute(_naming(self.workspace_id), prepare=False)


@lru_cache(maxsize=64)
def _naming(workspace_id: UUID | None) -> bytes:
    """Return the statement that names a workspace; it is sent as often as there are transactions."""
    name = sql.Literal(str(workspace_id or ""))
    return sql.SQL(statement("session.work_in")).format(workspace_id=name).as_bytes()


def as_ours(connection: psycopg.Connection[TupleRow]) -> Connection:
    """Return a session that a caller opened with psycopg as one that can name its workspace."""
    if not isinstance(connection, Connection):
        connection.__class__ = Connection
    return cast(Connection, connection)


URL_VARIABLE: Final = "KB_DATABASE_URL"
DIRECT_VARIABLE: Final = "KB_DIRECT_DATABASE_URL"
"""For where KB_DATABASE_URL is a pooler's, which other programs use: wins over it here."""

POOLER_VARIABLE: Final = "KB_POOLER"
"""Says `session` of a pooler that hands out whole sessions, which cannot be seen from outside."""


def database_url(explicit: str | None = None, *, make: bool = True) -> str:
    """Return the URL of the database to use.

    Args:
        explicit: Wins when given; else the environment's KB_DIRECT_DATABASE_URL, else its
            KB_DATABASE_URL, else the embedded server's, which is started when it is not running.
        make: Whether to make the embedded database where there is none.

    Raises:
        DatabaseUrlError: The URL given cannot be used.
        NoDatabaseError: There is no embedded database, and none is to be made.
        UnsafePathError: The embedded server's directory cannot be used.
        DatabaseError: The embedded server did not start.
    """
    name, url = ("", explicit.strip()) if explicit else named_url()
    return _checked(url, f"{name}: " if name else "") if url else embedded.start(make=make)


def owner_database_url(*, make: bool = True) -> str:
    """Return the URL of the same database as the role that makes and changes its tables.

    KB_OWNER_DATABASE_URL names it beside KB_DATABASE_URL; without one, that is the owner's URL too.
    `make` is as for `database_url`.

    Raises:
        DatabaseUrlError: The URL given cannot be used.
        NoDatabaseError: There is no embedded database, and none is to be made.
        UnsafePathError: The embedded server's directory cannot be used.
        DatabaseError: The embedded server did not start.
    """
    if not named_url()[1]:
        return embedded.start(role=embedded.OWNER, make=make)
    owner = os.environ.get("KB_OWNER_DATABASE_URL", "").strip()
    return _checked(owner, "KB_OWNER_DATABASE_URL: ") if owner else database_url()


def _checked(url: str, named: str) -> str:
    try:
        parse_database_url(url)
    except DatabaseUrlError as error:
        raise DatabaseUrlError(f"{named}{error}") from None
    return url


def named_url() -> tuple[str, str]:
    """Return the variable that names the database in the environment, and its value; else two empty texts."""
    for name in (DIRECT_VARIABLE, URL_VARIABLE):
        if url := os.environ.get(name, "").strip():
            return name, url
    return "", ""


def connect(
    url: str | None = None, *, application_name: str = "kb-pipeline", timeouts: bool = True
) -> Connection:
    """Open a session in UTC and in autocommit mode.

    Args:
        url: As for `database_url`.
        application_name: How the session shows in pg_stat_activity.
        timeouts: Whether the session's waits are bounded; False for work that takes as long as it takes.

    Raises:
        DatabaseUrlError: The URL cannot be used.
        PoolerError: A pooler answers that is not said to hand out whole sessions.
        DatabaseError: No session could be opened; the message names host and database only.
    """
    target = parse_database_url(database_url(url))
    settings = {"connect_timeout": rules.CONNECT_TIMEOUT_S, **target.keywords()}
    settings |= {"application_name": application_name, "client_encoding": "utf8"}
    begin = time.monotonic()
    while True:
        try:
            return _opened(target, settings, timeouts=timeouts)
        except DatabaseError as error:
            if time.monotonic() - begin > _patience_seconds(str(error)):
                raise
        time.sleep(0.1)


def _patience_seconds(message: str) -> int:
    """Return how long to wait for a server that crashed; libpq gives no code for it, only words."""
    if re.search("database system is (starting up|in recovery mode|not yet accepting)", message):
        return rules.EMBEDDED_START_TIMEOUT_S
    if re.search("crash of another server process|server closed the connection unexpectedly", message):
        return rules.CONNECT_TIMEOUT_S
    return 0


def _opened(target: DatabaseUrl, settings: Mapping[str, Any], *, timeouts: bool) -> Connection:
    try:
        # Prepared statements would break under a transaction pooler, and their generic plans
        # cannot use a partial index or drop a filter that was not given.
        connection = Connection.connect(**settings, autocommit=True, prepare_threshold=None)
    except (psycopg.Error, UnicodeError) as error:
        # Without the cause: its traceback would show the arguments, and so the password.
        raise DatabaseError(f"Cannot connect to {target.place}: {str(error).strip()}") from None
    try:
        _configure(connection, timeouts=timeouts)
    except psycopg.Error as error:
        connection.close()
        raise DatabaseError(f"Cannot use {target.place}: {error}") from error
    return connection


def ensure_database(url: str, name: str) -> str:
    """Return the URL of the database of this name on the same server, made first if it is missing.

    Raises:
        DatabaseError: It is missing and may not be made.
    """
    target = replace(parse_database_url(url), database=name)
    with connect(url, timeouts=False) as connection:
        row = connection.execute(statement("postgres.database_exists"), {"name": name}).fetchone()
        if row == (False,):
            try:
                connection.execute(
                    sql.SQL(statement("postgres.create_database")).format(name=sql.Identifier(name))
                )
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                pass  # another process made it between the two statements
            except psycopg.Error as error:
                raise DatabaseError(f"{target.place} could not be made: {error}") from error
    return target.text()


_PAGES_IN_INDEX_ORDER: Final = {
    "enable_sort": "off",
    "enable_incremental_sort": "off",
    "max_parallel_workers_per_gather": "0",
}
"""A page is the next rows of an index. Where a filter on JSON looks rarer than it is, the planner
would rather read and sort the whole table for each page."""


@contextmanager
def read_only_session(connection: Connection) -> Iterator[Connection]:
    """Open a second session beside another one, in its workspace, where Postgres itself refuses every write.

    Raises:
        DatabaseError: It could not be opened.
    """
    info = connection.info
    try:
        # the DSN has everything but the password
        beside = Connection.connect(
            info.dsn, password=info.password or None, autocommit=True, prepare_threshold=None
        )
    except psycopg.Error as error:
        place = f"database {info.dbname!r} at {info.host}"
        raise DatabaseError(f"Cannot open a second session to {place}: {error}") from None
    with beside:
        _configure(beside, timeouts=True)
        set_session(beside, {"default_transaction_read_only": "on", **_PAGES_IN_INDEX_ORDER})
        beside.workspace_id = connection.workspace_id
        yield beside


@contextmanager
def many_small_commits(connection: Connection) -> Iterator[None]:
    """Make a session quick at the same few statements and a commit after each, while the block runs.

    Statements are planned once, and a commit does not wait for the disk: a crash of the server can
    lose the last whole transactions, never a part of one. The next commit after the block waits for
    the disk again, and with it for all of these.
    """
    before = connection.prepare_threshold
    connection.prepare_threshold = 1
    set_session(connection, {"synchronous_commit": "off"})
    try:
        yield
    finally:
        connection.prepare_threshold = before
        if not connection.closed:
            set_session(connection, {"synchronous_commit": "on"})


def set_session(connection: Connection, settings: Mapping[str, str]) -> None:
    """Set settings of this session, by name, until it ends."""
    _set(connection, settings, None)


def _set(connection: Connection, settings: Mapping[str, str], pid: int | None) -> bool:
    parameters = {"names": list(settings), "values": list(settings.values()), "pid": pid}
    return connection.execute(statement("postgres.configure"), parameters).fetchone() is not None


def _configure(connection: Connection, *, timeouts: bool) -> None:
    limits = {
        "lock_timeout": rules.LOCK_TIMEOUT_MS,
        "statement_timeout": rules.STATEMENT_TIMEOUT_MS,
        "idle_in_transaction_session_timeout": rules.IDLE_IN_TRANSACTION_TIMEOUT_MS,
    }
    # 0 is "none", said aloud because a role or a database may have limits of its own.
    settings = {name: f"{limit if timeouts else 0}ms" for name, limit in limits.items()}
    settings["client_connection_check_interval"] = f"{rules.CLIENT_CONNECTION_CHECK_MS}ms"
    # A machine that lost its power says no good-bye: its sessions, and the locks they hold, end in 25 s.
    settings |= {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
    # Text forms must be the same whatever the server, the database or the role prefers.
    settings |= {"TimeZone": "UTC", "DateStyle": "ISO, YMD", "extra_float_digits": "1"}
    pools_sessions = os.environ.get(POOLER_VARIABLE, "").strip() == "session"
    if not _set(connection, settings, None if pools_sessions else connection.info.backend_pid):
        name = connection.info.dbname
        connection.close()
        raise PoolerError(
            f"A connection pooler stands before database {name!r} (the server process that "
            "answers is not the one announced). Locks and settings of a session would be lost or left to "
            f"others between two transactions; nothing was set. Set {DIRECT_VARIABLE} to the address of the "
            f"server itself, or, if the pooler hands out whole sessions, {POOLER_VARIABLE}=session."
        )
