"""The regime of one window in exact fractions, straight from the definitions and as slow as they are.

Property tests hold the fast computation against this one. Nothing is shared with it: no array, no
constant, no rounding before the end.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

Bar = tuple[float, float, float]
"""High, low, close."""


def slow_features(bars: Sequence[Bar]) -> dict[str, float | None]:
    """Return the features of the last 200 bars, None where one cannot be computed."""
    exact = [(Fraction(high), Fraction(low), Fraction(close)) for high, low, close in bars[-200:]]
    closes = [close for _, _, close in exact]
    count = len(closes)
    last = closes[-1]
    features = _band_features(closes) | _trend_features(closes)
    features["atr_pct"] = _ratio(_average_true_range(exact), last)
    features["range_pct"] = _ratio(max(high for high, _, _ in exact) - min(low for _, low, _ in exact), last)
    features["rsi"] = _rsi(closes)
    features["return_pct"] = _ratio(last - closes[0], closes[0]) if count > 1 else None
    features["drift_bps_per_bar"] = _ratio(10_000 * (last - closes[0]), closes[0] * (count - 1))
    features["efficiency_ratio"] = _efficiency_ratio(closes)
    return features


def slow_warnings(bars: Sequence[Bar]) -> list[str]:
    """Return the warnings of the last 200 bars, in stored order."""
    exact = [(Fraction(high), Fraction(low), Fraction(close)) for high, low, close in bars[-200:]]
    closes = [close for _, _, close in exact]
    # Whether a move is more than one half is decided on floats: a stored warning is as well.
    moves = [abs(after / before - 1) for (_, _, before), (_, _, after) in pairwise(bars[-200:])]
    return [
        *(["insufficient_bars", "low_effective_bars"] if len(closes) < 50 else []),
        *(["possible_bad_ticks"] if any(move > 0.5 for move in moves) else []),
        *(["zero_atr"] if _average_true_range(exact) == 0 else []),
        *(["zero_variance"] if len(closes) >= 20 and len(set(closes[-20:])) == 1 else []),
    ]


def _ratio(numerator: Fraction, denominator: Fraction) -> float | None:
    return None if denominator == 0 else float(numerator / denominator)


def _root(square: Fraction) -> Fraction:
    """Return the square root to 80 digits."""
    scale = 10**80
    return Fraction(math.isqrt(int(square * scale * scale)), scale)


def _exponential_mean(values: Sequence[Fraction]) -> Fraction:
    alpha = Fraction(2, 14 + 1)
    mean = values[0]
    for value in values[1:]:
        mean = alpha * value + (1 - alpha) * mean
    return mean


def _average_true_range(bars: Sequence[tuple[Fraction, Fraction, Fraction]]) -> Fraction:
    ranges = [bars[0][0] - bars[0][1]]
    for (_, _, previous), (high, low, _) in pairwise(bars):
        ranges.append(max(high - low, abs(high - previous), abs(low - previous)))
    return _exponential_mean(ranges)


def _rsi(closes: Sequence[Fraction]) -> float | None:
    changes = [Fraction(0), *(after - before for before, after in pairwise(closes))]
    gain = _exponential_mean([max(change, Fraction(0)) for change in changes])
    loss = _exponential_mean([max(-change, Fraction(0)) for change in changes])
    if loss == 0:
        return None if gain == 0 else 100.0
    return float(100 - 100 / (1 + gain / loss))


def _efficiency_ratio(closes: Sequence[Fraction]) -> float | None:
    period = min(50, len(closes) // 2)
    path = sum(
        (abs(after - before) for before, after in pairwise(closes[len(closes) - period - 1 :])), Fraction(0)
    )
    return _ratio(abs(closes[-1] - closes[len(closes) - period - 1]), path)


def _band_features(closes: Sequence[Fraction]) -> dict[str, float | None]:
    if len(closes) < 20:
        return dict.fromkeys(("std_pct", "bb_width_pct", "zscore"))
    window = closes[-20:]
    mean = sum(window) / 20
    # Scaled up before the root, whose digits are counted from the point.
    unit = max(map(abs, window)) or Fraction(1)
    std = unit * _root(sum(((close - mean) / unit) ** 2 for close in window) / Fraction(19))
    return {
        "std_pct": _ratio(std, closes[-1]),
        "bb_width_pct": _ratio(4 * std, mean),
        "zscore": _ratio(closes[-1] - mean, std),
    }


def _trend_features(closes: Sequence[Fraction]) -> dict[str, float | None]:
    if len(closes) < 50:
        return dict.fromkeys(("trend_strength", "trend_dir"))
    window = closes[-50:]
    mean = sum(window) / 50
    times = [Fraction(2 * time - 49, 2) for time in range(50)]
    time_variation = sum(time * time for time in times)
    close_variation = sum((close - mean) ** 2 for close in window)
    covariation = sum(time * (close - mean) for time, close in zip(times, window, strict=True))
    slope = _ratio(covariation / time_variation, mean)
    return {
        "trend_strength": _ratio(covariation**2, time_variation * close_variation),
        "trend_dir": None if slope is None else (slope > 0.001) - (slope < -0.001),
    }
