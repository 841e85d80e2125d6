"""Run the sweeps and return their rows: a run plan each, and a test variant for every set and window.

A variant's whole range is out of sample unless its dataset says otherwise. Its summary follows the
platform's habit for variants: `trade_count`, and a drawdown without its sign. Which sweeps there are
is in plan.py.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import pandas as pd

from demo_history.engine import (
    RUN_DURATION,
    WORKSPACE_ID,
    Row,
    Rows,
    backtest,
    bars_in,
    error_text,
    identifier,
    present,
    run_row,
    split,
    stamp,
)
from demo_history.plan import DECISIONS, OOS_RATIO, Decision, Market, Sweep, Variant
from demo_history.strategies import Method

SWEEPS_START: Final = datetime(2025, 2, 3, 8, 0, tzinfo=UTC)
"""Wall-clock time of the first sweep; after the tunes."""

SWEEP_INTERVAL: Final = timedelta(days=1)
VARIANT_INTERVAL: Final = timedelta(seconds=5)


def scored_bars(market: Market, variant: Variant) -> pd.DataFrame:
    """Return the bars a variant is scored on: its out-of-sample part, or all of its window."""
    if variant.told == "oos_ratio":
        return split(bars_in(market, variant.window), OOS_RATIO)[1]
    return bars_in(market, variant.oos or variant.window)


def dataset_of(market: Market, variant: Variant) -> Row:
    """Return what a variant's row tells about its bars; a reference tells no dates."""
    row_count = len(bars_in(market, variant.window))
    if variant.told == "reference":
        return {"ref": f"ohlcv/{market.file_name}", "bar_count": row_count}
    described = {
        "filename": market.file_name,
        "symbol": market.symbol,
        "timeframe": market.timeframe,
        "row_count": row_count,
        "date_min": variant.window.start,
        "date_max": variant.window.end,
        "oos_start": variant.oos and variant.oos.start,
        "oos_end": variant.oos and variant.oos.end,
        "oos_ratio": OOS_RATIO if variant.told == "oos_ratio" else None,
    }
    return present(described)


def summary_of(metrics: Row, experiment_type: str | None) -> Row:
    """Return the engine's numbers under the names that a run plan gives them."""
    renamed = {name: number for name, number in metrics.items() if name != "trades"}
    drawdown = abs(metrics["max_drawdown_pct"])
    told = {
        "max_drawdown_pct": drawdown,
        "trade_count": metrics["trades"],
        "experiment_type": experiment_type,
    }
    return present(renamed | told)


def outcome_of(sweep: Sweep, variant: Variant) -> Row:
    """Run one variant and return the columns that hold its result."""
    try:
        metrics = backtest(sweep.method, sweep.market, scored_bars(sweep.market, variant), variant.params)
    except ValueError as error:
        return {"status": "failed", "error": error_text(error)}
    return {
        "status": "completed",
        "summary": summary_of(metrics, sweep.experiment_type),
        "objective_score": metrics.get("sharpe"),
        "trade_count": metrics["trades"],
    }


def fingerprint_of(method: Method, market: Market, variant: Variant) -> str:
    """Return a hash of what was tried on what."""
    tried = [method.name, market.file_name, variant.window, variant.oos, variant.told, variant.params]
    return hashlib.sha256(json.dumps(tried, sort_keys=True).encode()).hexdigest()


def decision_columns(decisions: Iterable[Decision], sweep: Sweep, variant: Variant, decided: datetime) -> Row:
    """Return what a person decided about a variant; nothing where nobody looked."""
    key = (sweep.method, sweep.market, variant.window)
    found = [decision for decision in decisions if decision[:3] == key]
    return {
        name: value
        for decision in found
        for name, value in {
            "kb_status": decision.status,
            "kb_status_reason": decision.reason,
            "kb_status_changed_by": "researcher",
            "kb_status_changed_at": stamp(decided),
        }.items()
    }


def variant_row(sweep: Sweep, plan_id: str, index: int, started: datetime) -> Row:
    """Run one variant and return its row of backtest_runs."""
    variant = sweep.variants[index]
    columns = outcome_of(sweep, variant) | decision_columns(
        DECISIONS, sweep, variant, started + SWEEP_INTERVAL
    )
    return run_row(
        identifier("variant", plan_id, index),
        sweep.method,
        variant.params,
        started + VARIANT_INTERVAL * index,
        run_kind="test_variant",
        run_plan_id=plan_id,
        variant_index=index,
        variant_fingerprint=fingerprint_of(sweep.method, sweep.market, variant),
        dataset_meta=dataset_of(sweep.market, variant),
        **columns,
    )


def plan_row(sweep: Sweep, plan_id: str, started: datetime, runs: list[Row]) -> Row:
    """Return the row of run_plans."""
    completed = [run for run in runs if run["status"] == "completed"]
    best = max(completed, key=lambda run: float(run.get("objective_score", "-inf")))
    return {
        "id": plan_id,
        "workspace_id": WORKSPACE_ID,
        "strategy_entity_id": identifier("strategy", sweep.method.name),
        "status": "completed",
        "objective_name": "sharpe",
        "created_at": stamp(started),
        "started_at": stamp(started),
        "completed_at": stamp(started + VARIANT_INTERVAL * len(runs) + RUN_DURATION),
        "n_variants": len(runs),
        "n_completed": len(completed),
        "n_failed": len(runs) - len(completed),
        "best_backtest_run_id": best["id"],
        "best_objective_score": best["objective_score"],
        "plan": {"dataset": sweep.market.file_name, "experiment_type": sweep.experiment_type or "sweep"},
    }


def run_sweep(numbered: tuple[int, Sweep]) -> Rows:
    """Run one sweep and return its rows by table."""
    number, sweep = numbered
    plan_id = identifier("plan", number)
    started = SWEEPS_START + SWEEP_INTERVAL * number
    runs = [variant_row(sweep, plan_id, index, started) for index in range(len(sweep.variants))]
    return {"run_plans": [plan_row(sweep, plan_id, started, runs)], "backtest_runs": runs}
