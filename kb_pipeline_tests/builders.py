"""Rows for the tests, made one at a time with plain words; what a test does not name is harmless."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np

from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.conftest import Workspace

GOOD_SUMMARY = {"sharpe": 1.2, "max_drawdown_pct": -12.5, "trades": 60}
FLAT_SNAPSHOT = {"schema_version": "regime_v1_1", "regime_tags": ["flat", "low_vol", "noisy"]}
TREND_SNAPSHOT = {"schema_version": "regime_v1_1", "regime_tags": ["efficient", "high_vol", "uptrend"]}
FLAT_KEY = "regime_v1_1|default_v1|flat|low_vol|noisy"
NESTED = "[" * 12_000 + "]" * 12_000
"""JSON that Postgres stores and Python refuses to read: 3.11 from 1,000 levels on, 3.13 from 10,000."""
_minutes = count()
_EPOCH = datetime(2025, 1, 1, tzinfo=UTC)


def _json(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def add_strategy(connection: Connection, workspace_id: UUID, name: str = "reversal") -> UUID:
    """Insert another strategy; return its id."""
    row = {"id": uuid4(), "workspace_id": workspace_id, "type": "strategy", "name": name}
    _insert(connection, "kb_entities", row)
    return UUID(str(row["id"]))


def add_workspace(connection: Connection, slug: str = "other") -> Workspace:
    """Insert another workspace with a strategy."""
    workspace_id = uuid4()
    _insert(connection, "workspaces", {"id": workspace_id, "name": slug.title(), "slug": slug})
    return Workspace(workspace_id, add_strategy(connection, workspace_id))


def add_run(connection: Connection, workspace: Workspace, **columns: Any) -> UUID:
    """Insert a completed test variant that passes the gate; return its id. JSON may be given as text."""
    row = {
        "id": uuid4(),
        "workspace_id": workspace.id,
        "strategy_entity_id": workspace.strategy_id,
        "created_at": _EPOCH + timedelta(minutes=next(_minutes)),
        "status": "completed",
        "run_kind": "test_variant",
        "params": {},
        "dataset_meta": {"symbol": "AAPL"},
        "summary": GOOD_SUMMARY,
        **columns,
    }
    _insert(connection, "backtest_runs", row)
    return UUID(str(row["id"]))


def add_tune(connection: Connection, workspace: Workspace, **columns: Any) -> UUID:
    """Insert a completed tune without trials; return its id."""
    created_at = _EPOCH + timedelta(minutes=next(_minutes))
    row = {
        "id": uuid4(),
        "workspace_id": workspace.id,
        "strategy_entity_id": workspace.strategy_id,
        "created_at": created_at,
        "completed_at": created_at + timedelta(hours=1),
        "search_type": "grid",
        "n_trials": 10,
        "param_space": {},
        "status": "completed",
        **columns,
    }
    _insert(connection, "backtest_tunes", row)
    return UUID(str(row["id"]))


def add_trial(
    connection: Connection,
    workspace: Workspace,
    tune_id: UUID,
    *,
    sharpe: Any = None,
    params: Mapping[str, Any] | None = None,
    regime: Any = FLAT_SNAPSHOT,
    run: Mapping[str, Any] | None = None,
    **columns: Any,
) -> UUID:
    """Insert a completed trial and the run behind it; return the run's id."""
    run_id = add_run(connection, workspace, **{"run_kind": "tune_variant", "summary": None, **(run or {})})
    metrics = {"sharpe": sharpe, "regime": regime}
    row = {
        "tune_id": tune_id,
        "run_id": run_id,
        "trial_index": next(_minutes),
        "params": params or {},
        "status": "completed",
        "metrics_oos": {name: value for name, value in metrics.items() if value is not None},
        **columns,
    }
    _insert(connection, "backtest_tune_runs", row)
    return run_id


def _insert(connection: Connection, table: str, row: Mapping[str, Any]) -> None:
    values = {name: _json(value) if isinstance(value, dict | list) else value for name, value in row.items()}
    names, places = ", ".join(values), ", ".join(f"%({name})s" for name in values)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", values)  # type: ignore[arg-type]


def column(connection: Connection, table: str, name: str, row_id: UUID) -> Any:
    """Return one column of one row."""
    row = connection.execute(f"SELECT {name} FROM {table} WHERE id = %s", [row_id]).fetchone()  # type: ignore[arg-type]
    assert row is not None, f"{table} holds no row {row_id}"
    return row[0]


def write_daily_bars(path: Path, *, first: str = "2020-01-01", bars: int = 400, seed: int = 1) -> Path:
    """Write a price file of consecutive days (a 24/7 market) that drifts upward; return its path."""
    steps = np.random.default_rng(seed).normal(0.001, 0.01, bars)
    close = 100 * np.exp(np.cumsum(steps))
    day = datetime.fromisoformat(first).date()
    lines = ["timestamp,open,high,low,close,volume"]
    lines += [
        f"{day + timedelta(days=at)},{price!r},{price * 1.01!r},{price * 0.99!r},{price!r},1000"
        for at, price in enumerate(close.tolist())
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
