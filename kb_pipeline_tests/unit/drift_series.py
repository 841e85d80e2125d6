"""Price series for the tests of drift: bars of any volatility, and training windows in them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kb_pipeline.domain.drift_null import TrainingWindow, feature_rows, keys_of
from kb_pipeline.domain.price_bars import PriceBars
from kb_pipeline.domain.regime import compute_regime_snapshots


def series_bars(std: npt.NDArray[np.float64], *, drift: float = 0.0, seed: int = 1) -> PriceBars:
    """Return bars whose closes move by normal steps of these standard deviations (fractions), one each."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((3, std.size)) * std
    close = 100 * np.exp(np.cumsum(steps[0] + drift))
    before = np.concatenate(([100.0], close[:-1]))
    high = np.maximum(close, before) * np.exp(np.abs(steps[1]) / 2)
    low = np.minimum(close, before) * np.exp(-np.abs(steps[2]) / 2)
    return PriceBars(high, low, close, np.full(std.size, "", dtype=object))


def part(bars: PriceBars, begin: int, end: int) -> PriceBars:
    """Return the bars [begin, end)."""
    return PriceBars(*(it[begin:end] for it in (bars.high, bars.low, bars.close, bars.times)))


def training_windows(bars: PriceBars, ends: Sequence[int]) -> list[TrainingWindow]:
    """Return the 200 bars before each end as training windows, the last one first."""
    behind = np.array(ends)
    regimes = compute_regime_snapshots(bars, behind - 200, behind)
    windows = [
        TrainingWindow(key, features, end - 200, end - 1, part(bars, end - 200, end))
        for key, features, end in zip(keys_of(regimes), feature_rows(regimes).T, ends, strict=True)
    ]
    return windows[::-1]
