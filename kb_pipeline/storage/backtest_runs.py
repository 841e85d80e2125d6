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
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.session import in_its_workspace

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
    return {row[0] for row in changed.fetchall()}


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
    out_of_sample: Sequence[str],
    in_sample: Sequence[str | None],
) -> set[str]:
    """Write snapshots, given as JSON texts, to runs that have none yet; None: no in-sample snapshot.

    Returns the ids of the runs that were changed.
    """
    changed = connection.execute(
        statement("backtest_runs.land_regimes"),
        {
            "workspace_id": workspace_id,
            "ids": list(ids),
            "versions": list(versions),
            "out_of_sample": list(out_of_sample),
            "in_sample": list(in_sample),
            "schema_version": REGIME_SCHEMA_VERSION,
        },
    )
    return {row[0] for row in changed.fetchall()}


def distinct_symbols(connection: Connection, workspace_id: UUID) -> set[str]:
    """Return the symbols that a workspace's test variants name, upper-cased, at most two of them."""
    rows = connection.execute(statement("backtest_runs.distinct_symbols"), {"workspace_id": workspace_id})
    return {str(row[0]) for row in rows}


@in_its_workspace
def count_without_symbol(connection: Connection, workspace_id: UUID) -> int:
    """Return how many test variants wait for a regime and name no symbol."""
    row = connection.execute(
        statement("backtest_runs.count_without_symbol"), {"workspace_id": workspace_id}
    ).fetchone()
    return int(row[0]) if row else 0


@in_its_workspace
def read_run(connection: Connection, workspace_id: UUID, run_id: UUID) -> dict[str, Any] | None:
    """Return what bears on one run: its state, the gate's columns as a page holds them, its regime text."""
    row = connection.execute(
        statement("backtest_runs.explain_run"),
        {"run_id": run_id, "workspace_id": workspace_id, "actor": BACKFILL_ACTOR},
    ).fetchone()
    if row is None:
        return None
    state, gate_columns, (regime_oos, found_in) = row[:9], row[9:16], row[16:]
    names = (
        *("created_at", "run_kind", "status", "symbol", "kb_status"),
        *("kb_status_changed_by", "kb_status_changed_at", "kb_status_reason", "auto_candidate_gate"),
    )
    inputs = ("decided_by_a_person", "summary", "trades", "max_drawdown_pct", "sharpe", "experiment_type")
    return {
        "run": dict(zip(names, state, strict=True)),
        "gate_columns": gate_columns,
        "inputs": dict(zip((*inputs, "has_regime"), gate_columns, strict=True)),
        "regime_oos": regime_oos,
        "workspace_id": found_in,
    }


@in_its_workspace
def status_history(connection: Connection, workspace_id: UUID, run_id: UUID) -> list[dict[str, str | None]]:
    """Return the audited changes of one run, newest first."""
    names = ("at", "from", "to", "actor_type", "actor", "reason")
    rows = connection.execute(
        statement("backtest_runs.status_history"), {"workspace_id": workspace_id, "run_id": run_id}
    )
    return [dict(zip(names, row, strict=True)) for row in rows]
