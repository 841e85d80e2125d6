"""What is going on in the database: which runs are alive, whether anything was written.

Answered from what Postgres knows of itself; no table is read. Statements: `sql/activity.sql`.
"""

from typing import Final

from kb_pipeline.sql import statement
from kb_pipeline.storage.postgres import Connection

_DIGITS: Final = 8
"""Digits of a run's id in the name of its session, which Postgres cuts off after 63 characters."""


def run_session_name(purpose: str, run_id: str) -> str:
    """Return the name of a session that a Dagster run holds: the sign that its process lives."""
    return f"dagster {purpose} run {run_id[:_DIGITS]}"


def is_living(run_id: str, living: set[str]) -> bool:
    """Return whether a run is among those that `living_runs` found."""
    return run_id[:_DIGITS] in living


def living_runs(connection: Connection) -> set[str]:
    """Return the runs that hold a session, which ends with its process whatever ends that."""
    return {digits for (digits,) in connection.execute(statement("activity.living_runs"))}


def written_rows(connection: Connection) -> str | None:
    """Return the state of the counters of rows written where a tune can become due, None without counters."""
    row = connection.execute(statement("activity.written_rows")).fetchone()
    return row[0] if row else None
