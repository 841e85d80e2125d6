"""Regimes of a million windows of one series, against pandas with one window a call, and against Polars
with many a call.

All compute in this process, on the same windows, and their answers are compared before anything is
timed.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import polars as pl

from benchmarks.alternatives.pandas_one_window import regime_features
from benchmarks.alternatives.polars_windows import regime_features as polars_features
from benchmarks.figures import Figure, in_turn, peak_megabytes, show
from kb_pipeline.domain.features import IntArray
from kb_pipeline.domain.price_bars import PriceBars
from kb_pipeline.domain.regime import RegimeSnapshots, compute_regime_snapshots

COMPARED_WINDOWS = 40
POLARS_WINDOWS = 50_000


def random_walk(bars: int) -> pd.DataFrame:
    """Return hourly bars of a random walk of 0.2 % a bar, seeded."""
    numbers = np.random.default_rng(20)
    close = 100.0 * np.exp(np.cumsum(numbers.normal(0.0, 0.002, bars)))
    upper, lower = 1.0 + np.abs(numbers.normal(0.0, 0.002, (2, bars)))
    index = pd.date_range("2010-01-01", periods=bars, freq="h", tz="UTC")
    return pd.DataFrame({"high": close * upper, "low": close / lower, "close": close}, index=index)


def random_windows(count: int, shortest: int, longest: int, bars: int) -> tuple[IntArray, IntArray]:
    """Return starts and ends of windows of evenly spread lengths and places, seeded."""
    numbers = np.random.default_rng(21)
    length = numbers.integers(shortest, longest + 1, count)
    starts = numbers.integers(0, bars - length + 1)
    return starts, starts + length


def assert_equal(frame: pd.DataFrame, starts: IntArray, ends: IntArray) -> None:
    """Compare every feature of these windows between the two."""
    snapshots = compute_regime_snapshots(frame, starts, ends)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for name, expected in regime_features(frame.iloc[start:end]).items():
            found = snapshots.features[name][row]
            assert np.isclose(found, expected, rtol=1e-9, atol=1e-12), (name, start, end, found, expected)


def rate(count: int, work: Callable[[], object]) -> float:
    """Return how many a second one call does."""
    begin = time.perf_counter()
    work()
    return count / (time.perf_counter() - begin)


def _beside_polars(
    frame: pd.DataFrame, series: PriceBars, starts: IntArray, ends: IntArray, repeats: int
) -> Figure:
    bars = pl.DataFrame({name: frame[name].to_numpy() for name in ("high", "low", "close")})
    starts, ends = starts[:POLARS_WINDOWS], ends[:POLARS_WINDOWS]
    ours = compute_regime_snapshots(series, starts, ends).features
    for name, found in polars_features(bars, starts, ends).drop("window").to_dict().items():
        np.testing.assert_allclose(ours[name], found.to_numpy(), rtol=1e-9, atol=1e-12, err_msg=name)
    own, theirs = in_turn(
        repeats,
        lambda: rate(len(starts), lambda: compute_regime_snapshots(series, starts, ends)),
        lambda: rate(len(starts), lambda: polars_features(bars, starts, ends)),
    )
    return Figure(f"the same windows, {len(starts):,} of them", "windows/s", own, "Polars, all cores", theirs)


def figures(
    bars: int = 100_000, windows: int = 1_000_000, pandas_windows: int = 500, repeats: int = 7
) -> Iterator[Figure]:
    """Yield rates beside pandas, and the peak memory of this process."""
    frame = random_walk(bars)
    series = PriceBars.from_frame(frame)
    assert_equal(frame, *random_windows(COMPARED_WINDOWS, 60, 2_000, bars))
    starts, ends = random_windows(windows, 60, 2_000, bars)

    def pandas_one_by_one() -> None:
        for start, end in zip(starts[:pandas_windows], ends[:pandas_windows], strict=True):
            regime_features(frame.iloc[start:end])

    ours, theirs = in_turn(
        repeats,
        lambda: rate(windows, lambda: compute_regime_snapshots(series, starts, ends)),
        lambda: rate(pandas_windows, pandas_one_by_one),
    )
    pandas_name = "a pandas function of one window"
    yield Figure("regimes of windows of 60 to 2,000 bars", "windows/s", ours, pandas_name, theirs)
    short = random_windows(windows, 50, 199, bars)
    (ours,) = in_turn(repeats, lambda: rate(windows, lambda: compute_regime_snapshots(series, *short)))
    yield Figure("the same, none of the full 200 bars", "windows/s", ours)
    yield Figure("peak memory of both", "MB", [peak_megabytes()])
    written: RegimeSnapshots = compute_regime_snapshots(series, starts[:100_000], ends[:100_000])
    yield Figure(
        "stored JSON", "snapshots/s", in_turn(repeats, lambda: rate(len(written), written.to_json))[0]
    )
    one = in_turn(20 * repeats, lambda: rate(1, lambda: compute_regime_snapshots(frame[:200], [0], [200])))[0]
    yield Figure("one window a call", "windows/s", one)
    yield _beside_polars(frame, series, starts, ends, min(repeats, 3))


if __name__ == "__main__":
    show(figures())
