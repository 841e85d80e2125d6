"""The features of one window as a pandas user writes them: one window a call.

What the many-window computation is measured against. Written as pandas is meant to be used (ewm,
rolling, tail), with the library's own answer where a value cannot be computed: NaN.
"""

import numpy as np
import pandas as pd


def regime_features(bars: pd.DataFrame) -> dict[str, float]:
    """Return the eleven features of the last 200 bars of columns high, low and close."""
    window = bars.tail(200)
    high, low, close = window["high"], window["low"], window["close"]
    last = close.iloc[-1]
    change = close.diff().fillna(0.0)
    gain = change.clip(lower=0.0).ewm(span=14, adjust=False).mean().iloc[-1]
    loss = (-change).clip(lower=0.0).ewm(span=14, adjust=False).mean().iloc[-1]
    mean, std = close.tail(20).mean(), close.tail(20).std()
    strength, direction = _trend(close.tail(50))
    return_pct = last / close.iloc[0] - 1.0
    period = min(50, len(close) // 2)
    return {
        "atr_pct": _average_true_range(high, low, close) / last,
        "std_pct": std / last,
        "bb_width_pct": 4.0 * std / mean,
        "range_pct": (high.max() - low.min()) / last,
        "trend_strength": strength,
        "trend_dir": direction,
        "zscore": (last - mean) / std,
        "rsi": 100.0 - 100.0 / (1.0 + gain / loss),
        "return_pct": return_pct,
        "drift_bps_per_bar": 10_000.0 * return_pct / (len(close) - 1),
        "efficiency_ratio": abs(last - close.iloc[-1 - period]) / change.tail(period).abs().sum(),
    }


def _average_true_range(high: pd.Series, low: pd.Series, close: pd.Series) -> float:
    previous = close.shift()
    ranges = pd.concat([high - low, (high - previous).abs(), (low - previous).abs()], axis=1).max(axis=1)
    return float(ranges.ewm(span=14, adjust=False).mean().iloc[-1])


def _trend(close: pd.Series) -> tuple[float, float]:
    time = np.arange(len(close))
    slope = np.polyfit(time, close, 1)[0] / close.mean()
    strength = np.corrcoef(time, close)[0, 1] ** 2
    return float(strength), float(np.sign(slope) if abs(slope) > 0.001 else 0.0)
