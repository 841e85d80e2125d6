"""Small facts about a session that more than one module asks for. Statements: `sql/session.sql`."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from inspect import signature
from typing import Any, Final, ParamSpec, TypeVar
from uuid import UUID

from psycopg.errors import DeadlockDetected, LockNotAvailable, SerializationFailure

from kb_pipeline.errors import BadArgumentError, ConflictsRemainError
from kb_pipeline.rules import MAX_TRANSACTION_ATTEMPTS
from kb_pipeline.sql import statement
from kb_pipeline.storage.postgres import Connection, as_ours

P = ParamSpec("P")
T = TypeVar("T")

_LISTED_WORKSPACES: Final = 10


def in_its_workspace(work: Callable[P, T]) -> Callable[P, T]:
    """Let a function do all its work in the workspace that its second argument is, or names.

    The first one is the session, which a caller may have opened with psycopg itself.
    """
    shape = signature(work)
    session, workspace = list(shape.parameters)[:2]

    @wraps(work)
    def within(*arguments: P.args, **options: P.kwargs) -> T:
        given: Sequence[Any] = arguments
        if len(given) < len((session, workspace)):
            named = shape.bind(*arguments, **options).arguments
            given = named[session], named[workspace]
        asked = given[1]
        workspace_id = asked if isinstance(asked, UUID) else asked.workspace_id
        with as_ours(given[0]).working_in(workspace_id):
            return work(*arguments, **options)

    return within


OTHERS_IN_THE_WAY: Final = (SerializationFailure, DeadlockDetected, LockNotAvailable)
"""What ends a transaction that another session is in the way of: worth trying again, and nothing else is."""


def step_aside() -> None:
    """Wait a moment before such a transaction is tried again, not as long as the others who do the same."""
    time.sleep(random.uniform(0.01, 0.2))  # noqa: S311 - jitter, not a secret


def done_in_the_end(connection: Connection, work: Callable[[], T], undone: str) -> T:
    """Do work in a transaction, again where another session was in the way; `undone` is what it is then.

    Raises:
        ConflictsRemainError: Others were in the way each time.
    """
    for _ in range(MAX_TRANSACTION_ATTEMPTS):
        try:
            with connection.transaction():
                return work()
        except OTHERS_IN_THE_WAY:
            step_aside()
    raise ConflictsRemainError(
        f"{undone}: other sessions held them, {MAX_TRANSACTION_ATTEMPTS} times in a row. "
        "Run the same command again to go on."
    )


def now(connection: Connection) -> datetime:
    """Return the database's clock, the only clock of a backfill, as an aware UTC time."""
    row = connection.execute(statement("session.now")).fetchone()
    assert row is not None  # noqa: S101 - a SELECT of one expression always answers
    moment: datetime = row[0]
    return moment


@contextmanager
def plans_kept(connection: Connection) -> Iterator[None]:
    """Let statements that a session repeats be planned once, from their second time on, in the block.

    For questions that may be asked again and again, each of which is quicker than its planning.
    """
    before = connection.prepare_threshold
    connection.prepare_threshold = 1
    try:
        yield
    finally:
        connection.prepare_threshold = before


def all_workspaces(connection: Connection) -> list[UUID]:
    """Return every workspace, for work that is done in one after the other."""
    return [workspace_id for (workspace_id,) in connection.execute(statement("session.workspaces"))]


def require_workspace(connection: Connection, workspace_id: UUID) -> None:
    """Make sure that a workspace exists.

    Raises:
        BadArgumentError: It does not, in the database of this connection.
    """
    row = connection.execute(statement("session.workspace"), {"workspace_id": workspace_id}).fetchone()
    if row is None:
        info = connection.info
        raise BadArgumentError(
            f"There is no workspace {workspace_id} in database {info.dbname!r} at {info.host}. "
            f"Check --workspace-id and KB_DATABASE_URL. {workspaces_there(connection)}"
        )


def workspaces_there(connection: Connection) -> str:
    """Return in words which workspaces there are, for who asked for another one."""
    rows = connection.execute(statement("session.first_workspaces"), {"rows": _LISTED_WORKSPACES}).fetchall()
    named = [f"{slug} ({workspace_id})" for slug, workspace_id, _ in rows]
    rest = f" and {rows[0][2] - len(rows)} more" if rows and rows[0][2] > len(rows) else ""
    return f"The database has {', '.join(named) or 'no workspace yet'}{rest}."


def refresh_statistics(connection: Connection) -> None:
    """Tell the planner about rows just loaded in bulk, instead of waiting for autovacuum."""
    connection.execute(statement("session.refresh_statistics"))
