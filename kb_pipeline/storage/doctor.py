"""Look at a database as an operator would: what is wrong, what waits, and what to do next.

Every check reads and none changes anything. Statements: `sql/doctor.sql`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from kb_pipeline.errors import KbPipelineError, NoDatabaseError
from kb_pipeline.rules import OLDEST_SUPPORTED_POSTGRES, STALE_TUNE_S, BackfillKind
from kb_pipeline.sql import statement
from kb_pipeline.storage import migrations
from kb_pipeline.storage.locks import lock_key
from kb_pipeline.storage.orchestration import of_each_workspace
from kb_pipeline.storage.paths import symbols_file
from kb_pipeline.storage.postgres import Connection, connect, database_url
from kb_pipeline.storage.symbols import load_symbols
from kb_pipeline.storage.urls import redact


class Level(StrEnum):
    """How much a finding matters: nothing to do, look at it, or the work cannot go on."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and the next step where there is one."""

    check: str
    level: Level
    found: str
    next_step: str = ""


def examine() -> Iterator[Finding]:
    """Yield what every check finds; checks that need what an earlier one found missing are left out."""
    try:
        url = database_url(make=False)
        connection = connect(url, application_name="kb-pipeline doctor")
    except NoDatabaseError as error:
        yield Finding("connection", Level.FAILURE, str(error))
        return
    except KbPipelineError as error:
        step = "Start the server, or correct KB_DATABASE_URL; without it the embedded Postgres is used."
        yield Finding("connection", Level.FAILURE, " ".join(str(error).split()), step)
        return
    with connection:
        yield _server(connection, url)
        schema = _schema(url)
        yield schema
        if schema.level == Level.OK:
            for check in _CHECKS:
                yield from check(connection)
    yield _symbols()


def _server(connection: Connection, url: str) -> Finding:
    version = connection.info.server_version
    found = f"Postgres {version // 10_000}.{version % 10_000} answers at {redact(url)}."
    if version // 10_000 < OLDEST_SUPPORTED_POSTGRES:
        return Finding(
            "connection", Level.FAILURE, found, f"Use Postgres {OLDEST_SUPPORTED_POSTGRES} or newer."
        )
    return Finding("connection", Level.OK, found)


def _schema(url: str) -> Finding:
    waiting = migrations.pending(url)
    if waiting:
        found = f"{len(waiting)} migrations are not applied, the first is {waiting[0]}."
        return Finding("schema", Level.FAILURE, found, "Run: kb-pipeline db migrate")
    return Finding("schema", Level.OK, "The tables are up to date.")


def _role(connection: Connection) -> Iterator[Finding]:
    session = connection.execute(statement("doctor.session")).fetchone()
    name, bypasses, is_owner, has_app = session or ("", False, False, False)
    as_app = "Connect as kb_app, or as a member of it" if has_app else "Connect as a role that owns nothing"
    refused = connection.execute(statement("doctor.refused_privileges")).fetchall()
    if refused:
        missing = ", ".join(f"{privilege} on {table}" for table, privilege in refused)
        step = (
            f"Grant them as the owner of the tables, for instance: GRANT {refused[0][1]} ON {refused[0][0]}"
        )
        yield Finding("role", Level.FAILURE, f"{name} may not {missing}.", f"{step} TO {name}")
    elif bypasses:
        found = f"{name} is a superuser or bypasses row security, so the database checks nothing it does."
        yield Finding("role", Level.WARNING, found, f"{as_app}; KB_OWNER_DATABASE_URL names who migrates.")
    elif is_owner:
        found = f"{name} owns the tables, so it could lift what keeps workspaces apart."
        yield Finding("role", Level.WARNING, found, f"{as_app}; KB_OWNER_DATABASE_URL names who migrates.")
    else:
        yield Finding("role", Level.OK, f"{name} may do what the backfills need.")


def _tenants(connection: Connection) -> Iterator[Finding]:
    unguarded = [name for (name,) in connection.execute(statement("doctor.unguarded_tables"))]
    if unguarded:
        found = (
            f"{len(unguarded)} tables of another program keep workspaces apart by our statements alone: "
            f"{', '.join(unguarded)}."
        )
        step = "See what it takes for the database to do so too: kb-pipeline db secure"
        yield Finding("tenants", Level.WARNING, found, step)
    else:
        yield Finding("tenants", Level.OK, "The database itself keeps the workspaces of every table apart.")


def _ledger(connection: Connection) -> Iterator[Finding]:
    running, left = open_backfills(connection)
    for slug, kind, holder, idle_s in left:
        found = (
            f"The {kind} backfill of {slug} ({holder}) ended {_ago(idle_s)} without closing its ledger row."
        )
        step = "Run the same command again: it goes on after the last committed batch and closes the row."
        yield Finding("ledger", Level.WARNING, found, step)
    if not left:
        found = f"{running} backfills run now." if running else "No backfill is running or was left running."
        yield Finding("ledger", Level.OK, found)


def open_backfills(connection: Connection) -> tuple[int, list[tuple[str, str, str, float]]]:
    """Return how many backfills run now, and those that a dead process left open in the ledger.

    Of these: the workspace's slug, the kind, who ran it and the seconds since its last commit.
    """
    rows = list(of_each_workspace(connection, "doctor.open_ledger_rows"))
    left = [
        (workspace.slug, *row) for workspace, row in rows if not _is_held(connection, row[0], workspace.id)
    ]
    return len(rows) - len(left), left


def _is_held(connection: Connection, kind: str, workspace_id: UUID) -> bool:
    key = lock_key(BackfillKind(kind), workspace_id)
    return connection.execute(statement("session.lock_holder"), {"key": key}).fetchone() is not None


def _locks(connection: Connection) -> Iterator[Finding]:
    blocked = connection.execute(statement("doctor.blocked_sessions")).fetchall()
    for pid, application, waited_s, blockers in blocked:
        by = ", ".join(map(str, blockers))
        found = f"Server process {pid} ({application or 'unnamed'}) has waited {waited_s:.0f} s for {by}."
        step = f"Look {by} up in pg_stat_activity, and end it with pg_terminate_backend if it hangs."
        yield Finding("locks", Level.WARNING, found, step)
    if not blocked:
        yield Finding("locks", Level.OK, "No session waits for another.")


def _tunes(connection: Connection) -> Iterator[Finding]:
    late = False
    for workspace, (count, oldest_s) in of_each_workspace(connection, "doctor.waiting_tunes"):
        if oldest_s is None or oldest_s < STALE_TUNE_S:
            continue
        late = True
        tunes = f"{count:,} completed tunes of {workspace.slug}"
        found = f"{tunes} have no regime; the first completed {_ago(oldest_s)}."
        command = f"kb-pipeline backfill-attribution --workspace-id {workspace.id} --dry-run --list"
        yield Finding("tunes", Level.WARNING, found, f"See what they wait for: {command}")
    if not late:
        yield Finding("tunes", Level.OK, "No completed tune has waited long for its regime.")


def _symbols() -> Finding:
    path = symbols_file()
    try:
        return Finding("symbols", Level.OK, f"{path} names {len(load_symbols(path))} symbols.")
    except KbPipelineError as error:
        step = "Backfills need --calendar until it can be read; KB_DATA_ROOT names its directory."
        return Finding("symbols", Level.WARNING, str(error), step)


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


_CHECKS: Final[tuple[Callable[[Connection], Iterator[Finding]], ...]] = (
    *(_role, _tenants, _ledger, _locks, _tunes),
)
