"""Parts of a backfill that several processes share out, and the leases on them: `kb_backfill_parts`.

A plan's parts never overlap. A part belongs to whoever holds its session lock, which dies with its
process: what a killed one leaves is free at once, and no clock is asked. Parts of two plans that overlap
exclude each other. What a part's work is, its caller knows. Statements: `sql/kb_backfill_parts.sql`.
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any, Final, NamedTuple
from uuid import UUID

from kb_pipeline.errors import KbPipelineError
from kb_pipeline.rules import BackfillKind
from kb_pipeline.sql import statement
from kb_pipeline.storage.backfill_runs import FIRST_POSITION, LAST_POSITION, Position, Span
from kb_pipeline.storage.backtest_runs import since_parameter
from kb_pipeline.storage.postgres import Connection

MAX_ATTEMPTS: Final = 4
"""A part that kills whoever takes it up is left alone after so many processes."""

FIRST_RETRY_AFTER_SECONDS: Final = 5
"""Waits of 5, 10 and 20 seconds outlast a short backfill of the whole workspace."""

_POLL_SECONDS: Final = 0.3
"""How often a process with nothing to do looks whether another one has died."""


class Scope(NamedTuple):
    """The rows a part writes to: those of a workspace that wait for a kind, of one symbol where given."""

    kind: BackfillKind
    workspace_id: UUID
    symbol: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What one process works on at a time. Without a scope it excludes nothing but itself."""

    key: str
    span: Span = field(default_factory=Span)
    scope: Scope | None = None


_BOUNDS: Final = {
    BackfillKind.REGIME: "backtest_runs.regime_bounds",
    BackfillKind.CANDIDACY: "backtest_runs.candidacy_bounds",
    BackfillKind.ATTRIBUTION: "backtest_tunes.attribution_bounds",
}
"""The kinds whose rows can be shared out by ranges, with the statement that says where to cut."""


def cut(connection: Connection, key: str, scope: Scope, *, since: datetime | None, rows: int) -> list[Part]:
    """Return parts of so many waiting rows each that cover all rows of a scope, those to come included."""
    with connection.working_in(scope.workspace_id):
        found = connection.execute(
            statement(_BOUNDS[scope.kind]),
            {
                "workspace_id": scope.workspace_id,
                "symbol": scope.symbol,
                "since": since_parameter(since),
                "rows": rows,
            },
        )
    cuts = [FIRST_POSITION, *(Position(*row) for row in found.fetchall()), LAST_POSITION]
    return [Part(key, Span(after, until), scope) for after, until in pairwise(cuts)]


def write_plan(
    connection: Connection, plan: str, settings: Mapping[str, Any], make: Callable[[], Sequence[Part]]
) -> None:
    """Make the parts of a plan and write them down; one that is written down already stays as it is."""
    connection.execute(statement("kb_backfill_parts.forget_old"))
    planned = connection.execute(statement("kb_backfill_parts.is_planned"), {"plan": plan}).fetchone()
    if planned == (True,):
        return
    rows = [
        _row(plan, ordinal, part) | {"settings": json.dumps(settings)} for ordinal, part in enumerate(make())
    ]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(statement("kb_backfill_parts.plan"), rows)


def _row(plan: str, ordinal: int, part: Part) -> dict[str, Any]:
    digest = hashlib.sha256(f"kb_pipeline:part:{plan}:{ordinal}".encode()).digest()
    kind, workspace_id, symbol = part.scope or (None, None, None)
    return {
        "plan": plan,
        "ordinal": ordinal,
        "key": part.key,
        "kind": kind,
        "workspace_id": workspace_id,
        "symbol": symbol,
        "lock_key": int.from_bytes(digest[:8], "big", signed=True),
        **part.span.parameters(),
    }


def plan_settings(connection: Connection, plan: str) -> dict[str, Any] | None:
    """Return what a plan was made for, None where it has no part."""
    row = connection.execute(statement("kb_backfill_parts.settings"), {"plan": plan}).fetchone()
    return None if row is None else json.loads(row[0])


class Lease:
    """A part that this process may work on; `siblings` counts the parts of its partition, itself included."""

    def __init__(self, connection: Connection, plan: str, ordinal: int, row: tuple[Any, ...]) -> None:
        self._connection = connection
        self._identity = {"plan": plan, "ordinal": ordinal}
        self.key, _symbol, *bounds, self._attempt, self.siblings = row
        self.span = Span(Position(*bounds[:2]), Position(*bounds[2:]))

    def finish(self, result: Mapping[str, Any]) -> None:
        """Say that it is done, and with what counts."""
        self._connection.execute(
            statement("kb_backfill_parts.finish"), self._identity | {"result": json.dumps(result)}
        )

    def fail(self, error: KbPipelineError, *, final: bool) -> None:
        """Give it back to be tried again after a while, or for good."""
        wait = FIRST_RETRY_AFTER_SECONDS * 2 ** (self._attempt - 1)
        self._connection.execute(
            statement("kb_backfill_parts.fail"),
            self._identity | {"error": str(error), "final": final, "seconds": wait},
        )


def leases(connection: Connection, plan: str) -> Iterator[Lease]:
    """Yield the parts of a plan that this process gets hold of, until none is left to anybody.

    While others hold the last ones it waits, to take up what one of them leaves if it dies.
    """
    while _open_parts(connection, plan):
        taken = False
        for ordinal, key in _candidates(connection, plan):
            if connection.execute(statement("session.try_lock"), {"key": key}).fetchone() != (True,):
                continue
            try:
                lease = _begin(connection, plan, ordinal)
                if lease is not None:
                    taken = True
                    yield lease
            finally:
                if not connection.closed:
                    connection.execute(statement("session.unlock"), {"key": key})
        if not taken:
            time.sleep(_POLL_SECONDS)


def _open_parts(connection: Connection, plan: str) -> int:
    row = connection.execute(
        statement("kb_backfill_parts.open_parts"), {"plan": plan, "attempts": MAX_ATTEMPTS}
    ).fetchone()
    return int(row[0]) if row else 0


def _candidates(connection: Connection, plan: str) -> list[tuple[int, int]]:
    found = connection.execute(
        statement("kb_backfill_parts.candidates"), {"plan": plan, "attempts": MAX_ATTEMPTS}
    )
    return [(ordinal, key) for ordinal, key in found.fetchall()]


def _begin(connection: Connection, plan: str, ordinal: int) -> Lease | None:
    """Begin a part whose lock is held; None where another plan works on its rows, or it is done meanwhile."""
    identity = {"plan": plan, "ordinal": ordinal}
    if connection.execute(statement("kb_backfill_parts.holder_elsewhere"), identity).fetchone():
        return None
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    row = connection.execute(
        statement("kb_backfill_parts.begin"), identity | {"holder": holder, "attempts": MAX_ATTEMPTS}
    ).fetchone()
    return None if row is None else Lease(connection, plan, ordinal, row)


class Outcome(NamedTuple):
    """What became of a part: whether it is done, its counts, or why not, and who had it last."""

    key: str
    done: bool
    result: dict[str, Any] | None
    error: str | None
    holder: str | None


def outcome(connection: Connection, plan: str) -> list[Outcome]:
    """Return what became of every part of a plan, in order."""
    rows = connection.execute(statement("kb_backfill_parts.outcome"), {"plan": plan}).fetchall()
    return [Outcome(*row) for row in rows]
