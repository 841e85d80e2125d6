"""What must hold of the stored rows whatever happened, as queries that find its breaches.

Statements are in `sql/invariants.sql`. The two rules that decide again by the backfills' own functions
are in `backfills/invariants.py`; here is what they read.
"""

from typing import Any, Final, NamedTuple
from uuid import UUID

from kb_pipeline.rules import BACKFILL_ACTOR, MAX_BATCH_SIZE_ROWS, TAG_RULESET_ID
from kb_pipeline.sql import statement
from kb_pipeline.storage.backtest_runs import read_run
from kb_pipeline.storage.postgres import Connection

LISTED_BREACHES: Final = 20
"""Rows a rule names; one is enough to break it."""

STORED_RULES: Final = (
    "tags_against_key",
    "fingerprint_against_key",
    "overwritten_decisions",
    "unaudited_changes",
    "audited_twice",
    "unbalanced_ledger",
    "oversized_transactions",
    "trials_against_source",
    "attributions_against_trials",
)
"""Statements that must find nothing."""


class Breach(NamedTuple):
    """A row that breaks a rule: its id, what it is about, and what was found."""

    id: str
    about: str
    found: str


def stored_breaches(
    connection: Connection, workspace_id: UUID, rule: str, *, batch_rows: int = MAX_BATCH_SIZE_ROWS
) -> list[Breach]:
    """Return the first rows of a workspace that break one of STORED_RULES.

    `batch_rows` is what a transaction may have changed at most.
    """
    found = connection.execute(
        statement(f"invariants.{rule}"),
        {
            "workspace_id": workspace_id,
            "actor": BACKFILL_ACTOR,
            "ruleset_id": TAG_RULESET_ID,
            "batch_rows": batch_rows,
            "rows": LISTED_BREACHES,
        },
    )
    return [Breach(row_id, str(about), what) for row_id, about, what in found]


def untouched_candidates(
    connection: Connection, workspace_id: UUID, rows: int
) -> dict[UUID, tuple[Any, ...]]:
    """Return what the gate reads of the newest candidates that nobody changed since they became one."""
    found = connection.execute(
        statement("invariants.untouched_candidates"),
        {"workspace_id": workspace_id, "actor": BACKFILL_ACTOR, "rows": rows},
    )
    runs = {run_id: read_run(connection, workspace_id, run_id) for (run_id,) in found.fetchall()}
    return {run_id: run["gate_columns"] for run_id, run in runs.items() if run is not None}


def newest_regimes(connection: Connection, workspace_id: UUID, rows: int) -> dict[str, str]:
    """Return the newest snapshots a backfill wrote, as JSON texts by the id of their run."""
    found = connection.execute(
        statement("invariants.newest_regimes"), {"workspace_id": workspace_id, "rows": rows}
    )
    return dict(found.fetchall())
