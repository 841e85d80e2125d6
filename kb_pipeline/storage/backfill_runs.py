"""The ledger `kb_backfill_runs`: what each backfill did, and where the next one goes on.

The cursor moves in the transaction of the batch it tells of, so a killed backfill is finished by
running it again. Rows that another program wrote into the table are never touched.
"""

import hashlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import UUID

from kb_pipeline.rules import BackfillKind
from kb_pipeline.sql import statement
from kb_pipeline.storage.postgres import Connection


@dataclass(frozen=True, slots=True)
class Position:
    """A place in (created_at, id) order; `created_at` is Postgres' own text of the instant, in UTC."""

    created_at: str
    id: str

    def __str__(self) -> str:
        return f"{self.created_at}|{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the position that `str` wrote."""
        created_at, _, row_id = text.rpartition("|")
        return cls(created_at, row_id)


FIRST_POSITION: Final = Position("-infinity", "00000000-0000-0000-0000-000000000000")
LAST_POSITION: Final = Position("infinity", "ffffffff-ffff-ffff-ffff-ffffffffffff")

PART_SETTING: Final = "part"
"""Stands among the settings of a backfill of some rows only, so that each part has a cursor of its own."""


@dataclass(frozen=True, slots=True)
class Span:
    """Rows after one position, up to and with another."""

    after: Position = FIRST_POSITION
    until: Position = LAST_POSITION

    def __str__(self) -> str:
        return f"{self.after}..{self.until}"

    def parameters(self) -> dict[str, str]:
        """Return the bounds under the names the page statements use."""
        return {
            "after_created_at": self.after.created_at,
            "after_id": self.after.id,
            "until_created_at": self.until.created_at,
            "until_id": self.until.id,
        }


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """The numbers of one ledger row so far."""

    scanned: int
    updated: int
    skipped: int
    conflicts: int
    by_reason: Mapping[str, int]


def config_hash(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of settings as JSON with sorted keys and no spaces."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def last_position(
    connection: Connection, kind: BackfillKind, workspace_id: UUID, settings: Mapping[str, Any]
) -> Position | None:
    """Return where the newest real run with these settings stopped, None where there was none."""
    row = connection.execute(
        statement("kb_backfill_runs.last_cursor"),
        {"workspace_id": workspace_id, "kind": kind, "config_hash": config_hash(settings)},
    ).fetchone()
    return Position.parse(str(row[0])) if row and row[0] else None


class Ledger:
    """The open ledger row of one real backfill."""

    def __init__(self, connection: Connection, workspace_id: UUID, ledger_id: str) -> None:
        self._connection = connection
        self._workspace_id = workspace_id
        self.ledger_id = ledger_id

    @classmethod
    def open(
        cls,
        connection: Connection,
        kind: BackfillKind,
        workspace_id: UUID,
        settings: Mapping[str, Any],
        start: Position | None,
        *,
        part: bool = False,
    ) -> Self:
        """Close what a dead process left open and begin a row. Only for the holder of the writer's lock."""
        scope = {"workspace_id": workspace_id, "kind": kind}
        part_hash = config_hash(settings) if part else None
        with connection.transaction():
            connection.execute(
                statement("kb_backfill_runs.close_abandoned"), scope | {"part_hash": part_hash}
            )
            row = connection.execute(
                statement("kb_backfill_runs.open"),
                scope
                | {
                    "config": json.dumps(settings),
                    "config_hash": config_hash(settings),
                    "cursor": str(start) if start else None,
                    "holder": f"process {os.getpid()} on {socket.gethostname()}",
                },
            ).fetchone()
        assert row is not None  # noqa: S101 - INSERT ... RETURNING always answers
        return cls(connection, workspace_id, str(row[0]))

    def advance(self, position: Position | None, counts: LedgerCounts) -> None:
        """Move cursor and counts inside the caller's transaction."""
        self._connection.execute(
            statement("kb_backfill_runs.advance"),
            {
                "ledger_id": self.ledger_id,
                "workspace_id": self._workspace_id,
                "cursor": str(position) if position else None,
                "scanned": counts.scanned,
                "updated": counts.updated,
                "skipped": counts.skipped,
                "conflicts": counts.conflicts,
                "counts": json.dumps(counts.by_reason),
            },
        )

    def close(self, status: str, error: str | None = None) -> None:
        """End the row inside the caller's transaction."""
        self._connection.execute(
            statement("kb_backfill_runs.close"),
            {
                "ledger_id": self.ledger_id,
                "workspace_id": self._workspace_id,
                "status": status,
                "error": error,
            },
        )
