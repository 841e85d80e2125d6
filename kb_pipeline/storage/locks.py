"""The rule that one workspace and kind has one writer, or several that share its rows out by a plan.

A session advisory lock in Postgres: it covers every way in (CLI, Dagster, Python) and dies with its
connection. It needs a direct connection or a session pooler; a transaction pooler cannot hold it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from kb_pipeline.errors import AlreadyRunningError
from kb_pipeline.rules import BackfillKind
from kb_pipeline.sql import statement
from kb_pipeline.storage.postgres import Connection


def lock_key(kind: BackfillKind, workspace_id: UUID) -> int:
    """Return the 64-bit lock number of a workspace and kind, signed as Postgres wants it."""
    digest = hashlib.sha256(f"kb_pipeline:{kind}:{workspace_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@contextmanager
def writer_lock(
    connection: Connection, kind: BackfillKind, workspace_id: UUID, *, part: bool = False
) -> Iterator[None]:
    """Hold the writer's lock of a workspace and kind while the block runs.

    Holders of a part of the rows share it, and exclude one another by the leases of their parts.

    Raises:
        AlreadyRunningError: Another session holds it; the message says which. Answers at once.
    """
    key = lock_key(kind, workspace_id)
    take, give = ("try_shared_lock", "unlock_shared") if part else ("try_lock", "unlock")
    taken = connection.execute(statement(f"session.{take}"), {"key": key}).fetchone()
    if taken != (True,):
        raise AlreadyRunningError(
            f"A {kind} backfill of workspace {workspace_id} is already running: {_holder(connection, key)}. "
            "Wait for it to end, or stop that process."
        )
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute(statement(f"session.{give}"), {"key": key})


def _holder(connection: Connection, key: int) -> str:
    row = connection.execute(statement("session.lock_holder"), {"key": key}).fetchone()
    if row is None:
        return "its holder has just ended"
    pid, application, since = row
    return f"{application or 'an unnamed program'} (server process {pid}, connected since {since})"
