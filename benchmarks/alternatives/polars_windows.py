"""The features of many windows as a Polars user writes them: bars of each window side by side, one
group_by, expressions for the rest, all cores.

Windows have at least 60 bars.
"""

from typing import Any

import numpy as np
import polars as pl

WINDOWS_AT_ONCE = 5_000
"""200 rows for each: a million rows at a time, of which there is room for a few."""


def regime_features(
    bars: pl.DataFrame, starts: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]
) -> pl.DataFrame:
    """Return the eleven features of the last 200 bars of each window [start, end), a row a window.

    Args:
        bars: Columns high, low and close, oldest first.
        starts: Position of each window's first bar.
        ends: Position behind its last.
    """
    windows = pl.DataFrame({"first": np.maximum(starts, ends - 200), "end": ends}).with_row_index("window")
    parts = windows.iter_slices(WINDOWS_AT_ONCE)
    return pl.concat([_of_part(bars, part) for part in parts])


def _of_part(bars: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    rows = windows.select("window", row=pl.int_ranges("first", "end")).explode("row")
    of_windows = pl.concat([rows.select("window"), bars[rows["row"]]], how="horizontal")
    return of_windows.group_by("window", maintain_order=True).agg(*_features())


def _features() -> list[pl.Expr]:
    high, low, close = pl.col("high"), pl.col("low"), pl.col("close")
    last, previous = close.last(), close.shift()
    change = close.diff().fill_null(0.0)
    true_range = pl.max_horizontal(high - low, (high - previous).abs(), (low - previous).abs())
    gain, loss = _mean(change.clip(lower_bound=0.0)), _mean((-change).clip(lower_bound=0.0))
    mean, std = close.tail(20).mean(), close.tail(20).std()
    time = pl.int_range(50).cast(pl.Float64)
    slope = pl.cov(time, close.tail(50)) / time.var() / close.tail(50).mean()
    return_pct = last / close.first() - 1.0
    period = pl.min_horizontal(pl.lit(50), pl.len() // 2)
    return [
        (_mean(true_range) / last).alias("atr_pct"),
        (std / last).alias("std_pct"),
        (4.0 * std / mean).alias("bb_width_pct"),
        ((high.max() - low.min()) / last).alias("range_pct"),
        (pl.corr(time, close.tail(50)) ** 2).alias("trend_strength"),
        pl.when(slope.abs() > 0.001).then(slope.sign()).otherwise(0.0).alias("trend_dir"),
        ((last - mean) / std).alias("zscore"),
        (100.0 - 100.0 / (1.0 + gain / loss)).alias("rsi"),
        return_pct.alias("return_pct"),
        (10_000.0 * return_pct / (pl.len() - 1)).alias("drift_bps_per_bar"),
        ((last - close.tail(period + 1).first()).abs() / change.tail(period).abs().sum()).alias(
            "efficiency_ratio"
        ),
    ]


def _mean(values: pl.Expr) -> pl.Expr:
    return values.ewm_mean(span=14, adjust=False).last()
