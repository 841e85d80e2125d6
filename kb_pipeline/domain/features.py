"""Compute the regime features of many windows of one price series at once.

Holds the numerical methods, on arrays: no frame, no time, no name of a tag. A feature that cannot
be computed is NaN here; what is stored in its place, warnings and tags are the work of `regime`.

No window is visited by a Python loop, and no sum is a difference of two running sums: such a
difference loses its digits after a level shift. Every step is an element-wise operation in a fixed
order, so that a window has the same answer, to the last bit, in any company.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kb_pipeline.rules import (
    ATR_PERIOD_BARS,
    BAD_TICK_RETURN_FRACTION,
    BAND_PERIOD_BARS,
    BAND_WIDTH_STD,
    EFFICIENCY_MAX_PERIOD_BARS,
    FEATURE_NAMES,
    MAX_WINDOW_BARS,
    RSI_PERIOD_BARS,
    TREND_LOOKBACK_BARS,
    TREND_SLOPE_MIN_PER_BAR,
)

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

_ENDS_PER_CHUNK: Final = 1024
"""Ends whose last closes are held at once: 50 closes of each are 400 kB, which a core's cache holds."""

_WINDOWS_PER_PART: Final = 131_072
"""Windows computed at once: what is held for them on the way to a feature then no longer grows."""


@dataclass(frozen=True, slots=True)
class WindowFeatures:
    """Features and conditions of windows; every array has shape (windows,).

    `values` holds the features by name, NaN where one cannot be computed; units and ranges are those
    of the snapshot. The conditions are those that warnings are made of.
    """

    values: dict[str, FloatArray]
    possible_bad_ticks: BoolArray
    zero_atr: BoolArray
    zero_variance: BoolArray

    @classmethod
    def unfilled(cls, windows: int) -> "WindowFeatures":
        """Return room for so many windows, to be filled by `put`."""
        flags = [np.empty(windows, dtype=np.bool_) for _ in range(3)]
        return cls({name: np.empty(windows) for name in FEATURE_NAMES}, *flags)

    def put(self, rows: IntArray, part: "WindowFeatures") -> None:
        """Set the given rows to those of a part, one after the other."""
        for name, values in part.values.items():
            self.values[name][rows] = values
        self.possible_bad_ticks[rows] = part.possible_bad_ticks
        self.zero_atr[rows] = part.zero_atr
        self.zero_variance[rows] = part.zero_variance


def distinct_windows(starts: IntArray, ends: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return (starts, ends, row): windows to compute, and for each given window its row among them.

    Windows of the full 200 bars depend on their end alone and are many, so each is computed once.
    Shorter ones rarely repeat and are computed as they come.
    """
    is_full = ends - starts == MAX_WINDOW_BARS
    full_ends, full_row = _distinct(ends[is_full])
    row = np.empty(ends.size, dtype=np.int64)
    row[is_full] = full_row
    row[~is_full] = np.arange(full_ends.size, full_ends.size + ends.size - full_row.size)
    return (
        np.concatenate((full_ends - MAX_WINDOW_BARS, starts[~is_full])),
        np.concatenate((full_ends, ends[~is_full])),
        row,
    )


def compute_features(
    high: FloatArray, low: FloatArray, close: FloatArray, starts: IntArray, ends: IntArray
) -> WindowFeatures:
    """Return the features of the windows [start, end) of one series.

    Args:
        high: Highs, oldest first, shape (bars,), finite; as low and close.
        low: Lows.
        close: Closes.
        starts: Position of the first bar of each window, shape (windows,).
        ends: Position behind its last bar; 1 to 200 bars after the start.
    """
    # A value that cannot be computed divides by zero or overflows, and so comes out NaN or infinite.
    with np.errstate(all="ignore"):
        if starts.size <= _WINDOWS_PER_PART:
            return _features_of_part(high, low, close, starts, ends)
        in_order = np.argsort(starts, kind="stable")  # neighbours need few bars
        features = WindowFeatures.unfilled(starts.size)
        for first in range(0, starts.size, _WINDOWS_PER_PART):
            rows = in_order[first : first + _WINDOWS_PER_PART]
            begin = starts[rows[0]]
            bars = slice(begin, ends[rows].max())
            part = _features_of_part(
                high[bars], low[bars], close[bars], starts[rows] - begin, ends[rows] - begin
            )
            features.put(rows, part)
        return features


def _features_of_part(
    high: FloatArray, low: FloatArray, close: FloatArray, starts: IntArray, ends: IntArray
) -> WindowFeatures:
    bars = ends - starts
    last = close[ends - 1]
    std_pct, bb_width_pct, zscore, std = _by_end(_bands, close, ends, bars >= BAND_PERIOD_BARS)
    trend_strength, trend_dir = _by_end(_trend, close, ends, bars >= TREND_LOOKBACK_BARS)
    average_range, gain, loss = _recursive_means(high, low, close, starts, bars)
    change = np.where(bars > 1, last - close[starts], np.nan)
    return_pct = change / close[starts]
    values = {
        "atr_pct": average_range / last,
        "std_pct": std_pct,
        "bb_width_pct": bb_width_pct,
        "range_pct": _price_ranges(high, low, starts, ends) / last,
        "trend_strength": trend_strength,
        "trend_dir": trend_dir,
        "zscore": zscore,
        # 100 - 100/(1+G/L) in a form that is exactly 100 without losses and keeps its digits near 0.
        "rsi": 100.0 * (gain / _finite(gain + loss)),
        "return_pct": return_pct,
        "drift_bps_per_bar": 10_000.0 * return_pct / (bars - 1),
        "efficiency_ratio": _efficiency_ratios(close, ends, bars),
    }
    return WindowFeatures(
        {name: _finite(value) for name, value in values.items()},
        possible_bad_ticks=_has_bad_tick(close, starts, ends),
        zero_atr=average_range == 0.0,
        zero_variance=std == 0.0,
    )


def _finite(numbers: FloatArray) -> FloatArray:
    """Return NaN in the place of an overflow, so that nothing is divided by infinity into a plain zero."""
    return np.where(np.isfinite(numbers), numbers, np.nan)


# --- What depends on the last closes alone -----------------------------------------------------


def _distinct(ends: IntArray) -> tuple[IntArray, IntArray]:
    """Return the distinct ends, ascending, and the place of each given end among them."""
    is_present = np.zeros(ends.max(initial=0) + 1, dtype=np.bool_)
    is_present[ends] = True
    place = np.cumsum(is_present) - 1
    return np.flatnonzero(is_present), place[ends]


def _by_end(
    compute: Callable[[FloatArray, IntArray], tuple[FloatArray, ...]],
    close: FloatArray,
    ends: IntArray,
    is_long_enough: BoolArray,
) -> FloatArray:
    """Return what `compute` makes of each window's end, shape (results, windows); NaN if too short."""
    distinct_ends, place = _distinct(ends[is_long_enough])
    chunks = np.split(distinct_ends, range(_ENDS_PER_CHUNK, distinct_ends.size, _ENDS_PER_CHUNK))
    results = np.concatenate([np.array(compute(close, chunk)) for chunk in chunks], axis=1)
    by_window = np.full((len(results), ends.size), np.nan)
    by_window[:, is_long_enough] = results[:, place]
    return by_window


def _bands(close: FloatArray, ends: IntArray) -> tuple[FloatArray, ...]:
    """Return std_pct, bb_width_pct, zscore and the standard deviation itself, of the last 20 closes."""
    closes = _last_closes(close, ends, BAND_PERIOD_BARS)
    mean, deviations = _deviations(closes)
    std = np.sqrt(_sum(deviations * deviations) / (BAND_PERIOD_BARS - 1))
    return std / closes[-1], 2 * BAND_WIDTH_STD * std / mean, deviations[-1] / std, std


def _trend(close: FloatArray, ends: IntArray) -> tuple[FloatArray, ...]:
    """Return trend_strength and trend_dir of the last 50 closes."""
    mean, deviations = _deviations(_last_closes(close, ends, TREND_LOOKBACK_BARS))
    time = np.arange(TREND_LOOKBACK_BARS) - (TREND_LOOKBACK_BARS - 1) / 2
    time_variation = float(time @ time)
    close_variation = _sum(deviations * deviations)
    covariation = _sum(time[:, np.newaxis] * deviations)
    strength = np.minimum(covariation * covariation / (close_variation * time_variation), 1.0)
    slope = covariation / time_variation / mean
    direction = np.where(np.abs(slope) > TREND_SLOPE_MIN_PER_BAR, np.sign(slope), 0.0)
    return strength, np.where(np.isfinite(slope), direction, np.nan)


def _last_closes(close: FloatArray, ends: IntArray, count: int) -> FloatArray:
    """Return the last closes before each end, shape (count, ends), the largest of them near 1.

    No feature knows the unit of price. A power of two changes no digit, and keeps the squares of very
    large or very small prices from overflow and from vanishing.
    """
    closes = close[np.arange(-count, 0)[:, np.newaxis] + ends]
    exponent = np.frexp(reduce(np.maximum, np.abs(closes)))[1]
    scaled: FloatArray = closes * np.ldexp(1.0, np.clip(-exponent, -1000, 1000))
    return scaled


def _deviations(closes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean of each column and the deviations from it.

    The first close is taken off before anything is summed: equal closes then deviate by exactly
    nothing, and a price of a billion keeps the digits below its point.
    """
    offsets = closes - closes[0]
    mean_offset = _sum(offsets) / len(closes)
    return closes[0] + mean_offset, offsets - mean_offset


def _sum(rows: FloatArray) -> FloatArray:
    """Add rows one after the other; numpy's own order would depend on how many columns there are."""
    return reduce(np.add, rows)


# --- What runs through the whole window --------------------------------------------------------


def _recursive_means(
    high: FloatArray, low: FloatArray, close: FloatArray, starts: IntArray, bars: IntArray
) -> FloatArray:
    """Return the exponential means of true range, gains and losses at each end, shape (3, windows)."""
    previous = np.concatenate((close[:1], close[:-1]))
    change = close - previous
    true_range = np.maximum(high - low, np.maximum(np.abs(high - previous), np.abs(low - previous)))
    movement = np.stack((true_range, np.maximum(change, 0.0), np.maximum(-change, 0.0)), axis=1)
    weight = 2.0 / (np.array([ATR_PERIOD_BARS, RSI_PERIOD_BARS, RSI_PERIOD_BARS]) + 1.0)
    first = np.zeros((starts.size, 3))
    first[:, 0] = (high - low)[starts]
    return _run_recursion(first, weight * movement, 1.0 - weight, starts, bars - 1).T


def _efficiency_ratios(close: FloatArray, ends: IntArray, bars: IntArray) -> FloatArray:
    """Return net change over path travelled during the last min(50, bars // 2) changes, in [0, 1]."""
    period = np.minimum(EFFICIENCY_MAX_PERIOD_BARS, bars // 2)
    last = ends - 1
    changes = np.abs(np.diff(close, prepend=close[:1]))
    nothing = np.zeros((ends.size, 1))
    path = _run_recursion(nothing, changes[:, np.newaxis], np.ones(1), last - period, period)[:, 0]
    return np.minimum(np.abs(close[last] - close[last - period]) / _finite(path), 1.0)


def _run_recursion(
    state: FloatArray, inputs: FloatArray, decay: FloatArray, position: IntArray, steps: IntArray
) -> FloatArray:
    """Return each window's state after its steps of `state = decay * state + input`.

    Two steps are one step of the same form, of decay**2 and an input made of two. So the inputs are
    doubled again and again, and each window takes the lengths that are the binary digits of its
    number of steps. Nothing is ever subtracted.

    Args:
        state: State after the bar at `position`, shape (windows, columns); overwritten.
        inputs: What each bar adds, shape (bars, columns); overwritten.
        decay: Share of the state that one step keeps, shape (columns,).
        position: Last bar the state has seen, shape (windows,).
        steps: Bars to go, shape (windows,).
    """
    position = position.copy()
    for digit in range(int(steps.max(initial=0)).bit_length()):
        length = 1 << digit
        kept = decay**length
        rows = np.flatnonzero(steps & length)
        position[rows] += length
        state[rows] = kept * state[rows] + inputs.take(position[rows], axis=0)
        inputs[length:] += kept * inputs[:-length]
    return state


def _price_ranges(high: FloatArray, low: FloatArray, starts: IntArray, ends: IntArray) -> FloatArray:
    """Return the highest high minus the lowest low of each window.

    A window is covered by two runs of 2**k bars that may overlap, one from each of its sides.
    """
    largest = np.stack((high, -low), axis=1)
    digits = np.frexp(ends - starts)[1] - 1
    extremes = np.empty((starts.size, 2))
    for digit in range(int(digits.max(initial=-1)) + 1):
        length = 1 << digit
        rows = np.flatnonzero(digits == digit)
        from_start, to_end = largest.take(starts[rows], axis=0), largest.take(ends[rows] - length, axis=0)
        extremes[rows] = np.maximum(from_start, to_end)
        largest = np.maximum(largest[:-length], largest[length:])
    return extremes[:, 0] + extremes[:, 1]


def _has_bad_tick(close: FloatArray, starts: IntArray, ends: IntArray) -> BoolArray:
    """Return where some close moved by more than half from the close before it."""
    is_jump = np.abs(close[1:] / close[:-1] - 1.0) > BAD_TICK_RETURN_FRACTION
    jumps_until = np.concatenate(([0], np.cumsum(is_jump)))
    found: BoolArray = jumps_until[ends - 1] > jumps_until[starts]
    return found
