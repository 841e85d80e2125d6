"""Run one backtest, describe one window, and the parts that every row shares.

The only module besides strategies.py that knows the engine. What is run is in plan.py.
"""

import math
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import pandas as pd
from backtesting import Backtest

from demo_history.plan import Market, Window
from demo_history.strategies import Method, Params
from kb_pipeline.domain.regime import compute_regime_snapshots

OHLCV_DIRECTORY: Final = Path(__file__).resolve().parents[2] / "data" / "ohlcv"
CASH: Final = 100_000

RUN_DURATION: Final = timedelta(seconds=3)
"""Wall-clock time that a run is said to have taken; the real one would differ at every rebuild."""

NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "demo.kb-pipeline.invalid")
"""Identifiers of the history are derived from this; kb_pipeline.storage.demo names the workspace's."""

Row = dict[str, Any]
Rows = dict[str, list[Row]]


def identifier(*parts: object) -> str:
    """Return the same UUID for the same parts, always."""
    return str(uuid.uuid5(NAMESPACE, "/".join(map(str, parts))))


WORKSPACE_ID: Final = identifier("workspace")


def stamp(moment: datetime) -> str:
    """Return a UTC time as ISO 8601 ending in Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def present(row: Mapping[str, Any]) -> Row:
    """Return the row without its unknown values; the loader stores those as NULL."""
    return {name: value for name, value in row.items() if value is not None}


@cache
def load_bars(market: Market) -> pd.DataFrame:
    """Return all bars of a market, oldest first, indexed by time without a zone (UTC)."""
    bars = pd.read_csv(OHLCV_DIRECTORY / market.file_name, index_col=0, parse_dates=True)
    return bars.set_index(pd.DatetimeIndex(bars.index).tz_localize(None))


def bars_in(market: Market, window: Window) -> pd.DataFrame:
    """Return the bars of a window; there may be none."""
    return load_bars(market).loc[window.start : window.end]


def split(bars: pd.DataFrame, oos_ratio: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the first floor((1 - ratio) * n) bars, in sample, and the rest, out of sample."""
    cut = math.floor((1 - oos_ratio) * len(bars))
    return bars.iloc[:cut], bars.iloc[cut:]


ENGINE_NAMES: Final = {
    "return_pct": "Return [%]",
    "max_drawdown_pct": "Max. Drawdown [%]",
    "sharpe": "Sharpe Ratio",
    "win_rate": "Win Rate [%]",
}


def backtest(method: Method, market: Market, bars: pd.DataFrame, params: Params) -> Row:
    """Return the engine's own numbers, in percent; one that is not finite is left out.

    Raises:
        ValueError: There are no bars, or the strategy refuses the parameters.
    """
    engine = Backtest(
        bars.rename(columns=str.capitalize),
        method.engine_class,
        cash=CASH,
        commission=market.commission_fraction,
        exclusive_orders=True,
        finalize_trades=True,
    )
    stats = engine.run(**params)
    numbers = {name: float(stats[engine_name]) for name, engine_name in ENGINE_NAMES.items()}
    finite: Row = {name: number for name, number in numbers.items() if math.isfinite(number)}
    return finite | {"trades": int(stats["# Trades"])}


def regime_of(market: Market, bars: pd.DataFrame, computed_at: datetime) -> Row:
    """Return the regime of a window as a platform stores it with a trial."""
    snapshots = compute_regime_snapshots(
        bars,
        [0],
        [len(bars)],
        source="live",
        instrument=market.symbol,
        timeframe=market.timeframe,
        computed_at=computed_at,
    )
    return snapshots[0].to_dict()


def run_row(run_id: str, method: Method, params: Params, started: datetime, **columns: object) -> Row:
    """Return a row of backtest_runs, as far as every kind of run has it."""
    common = {
        "id": run_id,
        "workspace_id": WORKSPACE_ID,
        "strategy_entity_id": identifier("strategy", method.name),
        "strategy_spec_id": identifier("spec", method.name),
        "spec_version": 1,
        "params": params,
        "created_at": stamp(started),
        "started_at": stamp(started),
        "completed_at": stamp(started + RUN_DURATION),
    }
    return present(common | columns)


def error_text(error: Exception) -> str:
    """Return an engine's error as a platform stores it."""
    return f"{type(error).__name__}: {error}"
