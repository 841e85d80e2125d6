"""Reading and marking rows of `backtest_runs`.

Statements are in `sql/backtest_runs.sql`. Which rows are eligible is decided elsewhere; the guard
that they still are stands in the statements.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from kb_pipeline.rules import BACKFILL_ACTOR, REGIME_SCHEMA_VERSION, GateReason
from kb_pipeline.sql import statement
from kb_pipeline.storage.locks import Connection

Rows = list[tuple[Any, ...]]


def since_parameter(since: datetime | None) -> str:
    """Return a lower bound for created_at that Postgres reads the same in every session."""
    return "-infinity" if since is None else since.isoformat()


def read_candidacy_page(
    connection: Connection,
    workspace_id: UUID,
    *,
    since: datetime | None,
    bounds: Mapping[str, str],
    rows: int,
) -> Rows:
    """Return excluded test variants: id, created_at, version, whether a person decided, kind of summary,
    then the JSON text of trades, drawdown percent, Sharpe and experiment type, and whether a regime is there.
    """
    parameters = {"workspace_id": workspace_id, "since": since_parameter(since), "rows": rows}
    return connection.execute(
        statement("backtest_runs.read_candidacy_page"), {**parameters, **bounds, "actor": BACKFILL_ACTOR}
    ).fetchall()


def mark_candidates(
    connection: Connection, workspace_id: UUID, ids: Sequence[str], versions: Sequence[str]
) -> set[str]:
    """Make runs candidates, with their audit rows, where they are as they were read; return those changed."""
    changed = connection.execute(
        statement("backtest_runs.mark_candidates"),
        {
            "workspace_id": workspace_id,
            "ids": list(ids),
            "versions": list(versions),
            "actor": BACKFILL_ACTOR,
            "gate": GateReason.PASSED_ALL_GATES,
        },
    )
    return {str(row[0]) for row in changed}


def read_regime_page(
    connection: Connection,
    workspace_id: UUID,
    *,
    symbol: str | None,
    since: datetime | None,
    bounds: Mapping[str, str],
    rows: int,
) -> Rows:
    """Return test variants without an out-of-sample regime: id, created_at, version, symbol, window."""
    parameters = {"workspace_id": workspace_id, "since": since_parameter(since), "rows": rows}
    return connection.execute(
        statement("backtest_runs.read_regime_page"), {**parameters, **bounds, "symbol": symbol}
    ).fetchall()


def land_regimes(
    connection: Connection,
    workspace_id: UUID,
    *,
    ids: Sequence[str],
    versions: Sequence[str],
    snapshots: Sequence[str],
    out_of_sample: Sequence[int],
    in_sample: Sequence[int],
) -> set[str]:
    """Write snapshots (JSON texts; rows point at theirs from 1 on, 0 for none) where there is none yet.

    Returns the ids of the runs that were changed.
    """
    changed = connection.execute(
        statement("backtest_runs.land_regimes"),
        {
            "workspace_id": workspace_id,
            "ids": list(ids),
            "versions": list(versions),
            "snapshots": list(snapshots),
            "out_of_sample": list(out_of_sample),
            "in_sample": list(in_sample),
            "schema_version": REGIME_SCHEMA_VERSION,
        },
    )
    return {str(row[0]) for row in changed}


def distinct_symbols(connection: Connection, workspace_id: UUID) -> set[str]:
    """Return the symbols that a workspace's test variants name, upper-cased, at most two of them."""
    rows = connection.execute(statement("backtest_runs.distinct_symbols"), {"workspace_id": workspace_id})
    return {str(row[0]) for row in rows}
