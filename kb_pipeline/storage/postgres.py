"""Read database URLs and open connections.

Which database is meant, what a session's limits are and how a failed connection is reported. The
embedded server is embedded.py's, the tables are migrations.py's, and the queries are those of the
module named after their table.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast
from urllib.parse import quote, unquote, urlencode
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.abc import Params, Query
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from kb_pipeline import rules
from kb_pipeline.errors import DatabaseError, DatabaseUrlError
from kb_pipeline.sql import statement
from kb_pipeline.storage import embedded


class Connection(psycopg.Connection[TupleRow]):
    """A session in autocommit mode: what must hold together stands in `with connection.transaction()`.

    While it is `working_in` a workspace, each of its transactions begins by telling Postgres which one,
    and row-level security shows and takes no other rows. What runs outside of it sees no tenant's rows.
    """

    workspace_id: UUID | None = None

    @contextmanager
    def working_in(self, workspace_id: UUID) -> Iterator[None]:
        """Do the work of one workspace in the block; within it, another one may have its own block."""
        before, self.workspace_id = self.workspace_id, workspace_id
        is_inside = self.info.transaction_status == TransactionStatus.INTRANS
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

    def joined(self) -> AbstractContextManager[object]:
        """Return the block of the transaction that is open, else of one of its own."""
        is_idle = self.info.transaction_status == TransactionStatus.IDLE
        return self.transaction() if is_idle and self.workspace_id is not None else nullcontext()

    def execute(self, query: Query, params: Params | None = None, **options: Any) -> psycopg.Cursor[TupleRow]:
        """Run a statement in the transaction that is open, else in one of its own."""
        with self.joined():
            return super().execute(query, params, **options)  # type: ignore[arg-type]  # psycopg's own overloads

    def _name_workspace(self) -> None:
        # A utility statement, which takes no snapshot: the transaction may still choose its isolation. It
        # ends with the transaction, so that no session carries a workspace on. Empty is none.
        name = sql.Literal(str(self.workspace_id or ""))
        text = sql.SQL(statement("session.work_in")).format(workspace_id=name)
        super().execute(text, prepare=False)


def as_ours(connection: psycopg.Connection[TupleRow]) -> Connection:
    """Return a session that a caller opened with psycopg as one that can name its workspace."""
    if not isinstance(connection, Connection):
        connection.__class__ = Connection
    return cast(Connection, connection)


_URL = re.compile(
    r"""(?:postgresql|postgres)://
    (?:(?P<user>[^:/?\#@]*)(?::(?P<password>[^/?\#@]*))?@)?
    (?P<host>\[[0-9A-Fa-f:.]+\]|[^:/?\#@\[\],]*)(?::(?P<port>[0-9]{1,5}))?
    /(?P<database>[^:/?\#@]+)
    (?:\?(?P<parameters>[^?\#@]*))?""",
    re.VERBOSE,
)
_DRIVER_SUFFIX = re.compile(r"(postgresql|postgres)\+[A-Za-z0-9_]+://")
_SHAPE = (
    "It must read postgresql://user:password@host:5432/database, with every special character of the "
    "user, the password and the database percent-encoded."
)
_ADDRESS_PARAMETERS: Final = ("user", "password", "host", "port")
_PARAMETERS: Final = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()} - {"dbname"}


@dataclass(frozen=True)
class DatabaseUrl:
    """A database URL taken apart. Its text forms never show the password.

    `parameters` are libpq's own, such as sslmode; `host` may be a socket's directory.
    """

    host: str | None
    port: int | None
    user: str | None
    password: str | None = field(repr=False)
    database: str
    parameters: Mapping[str, str] = field(repr=False)

    @property
    def place(self) -> str:
        """Host and database, for messages."""
        port = f":{self.port}" if self.port and not (self.host or "/").startswith("/") else ""
        return f"database '{self.database}' at {self.host or 'the local socket'}{port}"

    def keywords(self) -> dict[str, Any]:
        """Return what `psycopg.connect` takes."""
        address = {"host": self.host, "port": self.port, "user": self.user, "password": self.password}
        given = {name: value for name, value in address.items() if value is not None}
        return {**self.parameters, **given, "dbname": self.database}

    def text(self) -> str:
        """Return the URL again, password and all."""
        secret = "" if self.password is None else f":{quote(self.password, safe='')}"
        user = f"{quote(self.user or '', safe='')}{secret}@" if self.user or secret else ""
        # A socket's directory can stand only behind the '?', and so its port does too.
        behind = {"host": self.host, "port": self.port} if (self.host or "").startswith("/") else {}
        host = "" if behind or not self.host else f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port and not behind else ""
        given = {name: value for name, value in {**self.parameters, **behind}.items() if value is not None}
        query = urlencode(given, quote_via=quote, safe="/")
        return f"postgresql://{user}{host}{port}/{quote(self.database, safe='')}{'?' if query else ''}{query}"


def parse_database_url(url: str) -> DatabaseUrl:
    """Take a database URL apart.

    psycopg's own reader puts the password of some malformed URLs into its message, so a URL that
    this function does not understand never reaches it.

    Raises:
        DatabaseUrlError: Another scheme, a driver suffix, or a shape that could be read two ways.
            The message holds no part of the URL.
    """
    if _DRIVER_SUFFIX.match(url):
        raise DatabaseUrlError("The database URL names a driver after '+'. Write postgresql:// without it.")
    found = _URL.fullmatch(url)
    if found is None or not url.isprintable() or " " in url:
        raise DatabaseUrlError(f"The database URL cannot be read. {_SHAPE}")
    part = {
        name: None if text is None else _decoded(text) for name, text in found.groupdict("").items() if text
    }
    parameters = _parameters(found["parameters"] or "")
    address = {name: part.get(name) for name in _ADDRESS_PARAMETERS}
    for name in parameters.keys() & set(_ADDRESS_PARAMETERS):
        if address[name] is not None:
            raise DatabaseUrlError(f"The database URL gives the {name} twice, before and after the '?'.")
        address[name] = parameters.pop(name)
    return DatabaseUrl(
        host=(address["host"] or "").strip("[]") or None,
        port=_port(address["port"]),
        user=address["user"],
        password=address["password"],
        database=_decoded(found["database"]),
        parameters=parameters,
    )


def redact(url: str) -> str:
    """Return a URL fit for a log: *** for the password, no parameters, and nothing at all of one that
    cannot be read.
    """
    try:
        target = parse_database_url(url)
    except DatabaseUrlError:
        return "(a database URL that cannot be read)"
    shown = replace(target, password=None if target.password is None else "***", parameters={})
    return shown.text().replace("%2A%2A%2A", "***")


def database_url(explicit: str | None = None) -> str:
    """Return the URL of the database to use.

    Args:
        explicit: Wins when given; else the environment's KB_DATABASE_URL, else the embedded
            server's, which is started when it is not running.

    Raises:
        DatabaseUrlError: The URL given cannot be used.
        UnsafePathError: The embedded server's directory cannot be used.
        DatabaseError: The embedded server did not start.
    """
    url = (explicit or os.environ.get("KB_DATABASE_URL") or "").strip()
    return _checked(url, "" if explicit else "KB_DATABASE_URL: ") if url else embedded.start()


def owner_database_url() -> str:
    """Return the URL of the same database as the role that makes and changes its tables.

    KB_OWNER_DATABASE_URL names it beside KB_DATABASE_URL; without one, that is the owner's URL too.

    Raises:
        DatabaseUrlError: The URL given cannot be used.
        UnsafePathError: The embedded server's directory cannot be used.
        DatabaseError: The embedded server did not start.
    """
    if not os.environ.get("KB_DATABASE_URL", "").strip():
        return embedded.start(role=embedded.OWNER)
    owner = os.environ.get("KB_OWNER_DATABASE_URL", "").strip()
    return _checked(owner, "KB_OWNER_DATABASE_URL: ") if owner else database_url()


def _checked(url: str, named: str) -> str:
    try:
        parse_database_url(url)
    except DatabaseUrlError as error:
        raise DatabaseUrlError(f"{named}{error}") from None
    return url


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
        DatabaseError: No session could be opened; the message names host and database only.
    """
    target = parse_database_url(database_url(url))
    settings = {"connect_timeout": rules.CONNECT_TIMEOUT_S, **target.keywords()}
    settings |= {"application_name": application_name, "client_encoding": "utf8"}
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
    names, values = list(settings), list(settings.values())
    connection.execute(statement("postgres.configure"), {"names": names, "values": values})


def _configure(connection: Connection, *, timeouts: bool) -> None:
    limits = {
        "lock_timeout": rules.LOCK_TIMEOUT_MS,
        "statement_timeout": rules.STATEMENT_TIMEOUT_MS,
        "idle_in_transaction_session_timeout": rules.IDLE_IN_TRANSACTION_TIMEOUT_MS,
    }
    # 0 is "none", said aloud because a role or a database may have limits of its own.
    settings = {name: f"{limit if timeouts else 0}ms" for name, limit in limits.items()}
    settings["client_connection_check_interval"] = f"{rules.CLIENT_CONNECTION_CHECK_MS}ms"
    # Text forms must be the same whatever the server, the database or the role prefers.
    settings |= {"TimeZone": "UTC", "DateStyle": "ISO, YMD", "extra_float_digits": "1"}
    set_session(connection, settings)


def _decoded(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded or re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise DatabaseUrlError(f"The database URL holds a '%' that does not encode a character. {_SHAPE}")
    return decoded


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise DatabaseUrlError("The database URL's port is not a number from 1 to 65535.")
    return int(text)


def _parameters(query: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in query.split("&")] if query else []
    parameters = {name: _decoded(value) for name, equals, value in pairs if equals}
    if len(parameters) != len(pairs) or not parameters.keys() <= _PARAMETERS:
        raise DatabaseUrlError(
            "What follows the '?' of the database URL is not name=value&name=value with each name one that "
            "libpq knows, given once."
        )
    return parameters
