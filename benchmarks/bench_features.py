"""Regimes of a million windows of one series, against pandas with one window a call.

Run with `python -m benchmarks.bench_features`. Both compute in this process, on the same windows,
and their answers are compared before anything is timed. `--smoke` only compares, on few windows.
"""

import argparse
import platform
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from benchmarks.alternatives.pandas_one_window import regime_features
from kb_pipeline.domain.features import IntArray
from kb_pipeline.domain.price_bars import PriceBars
from kb_pipeline.domain.regime import RegimeSnapshots, compute_regime_snapshots

SMOKE_BARS, SMOKE_WINDOWS = 3_000, 40


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


def seconds_of(work: Callable[[], object], repeats: int) -> list[float]:
    """Return how long each repeat took."""
    spans = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        spans.append(time.perf_counter() - begin)
    return spans


def rates(count: int, spans: list[float]) -> tuple[float, str]:
    """Return the median rate per second, and a text that gives its spread."""
    median = count / statistics.median(spans)
    return median, f"{median:>11,.0f} a second (from {count / max(spans):,.0f} to {count / min(spans):,.0f})"


def peak_megabytes() -> int:
    """Return the largest resident size this process has had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 if platform.system() == "Linux" else 1024**2)


def measure(bars: int, windows: int, pandas_windows: int, repeats: int) -> None:
    """Print rates, memory and the ratio to pandas."""
    frame = random_walk(bars)
    series = PriceBars.from_frame(frame)
    assert_equal(frame, *random_windows(SMOKE_WINDOWS, 60, 2_000, bars))
    before = peak_megabytes()
    starts, ends = random_windows(windows, 60, 2_000, bars)
    ours, text = rates(windows, seconds_of(lambda: compute_regime_snapshots(series, starts, ends), repeats))
    print(f"ours, windows of 60 to 2,000 bars   {text}")
    short = random_windows(windows, 50, 199, bars)
    _, text = rates(windows, seconds_of(lambda: compute_regime_snapshots(series, *short), repeats))
    print(f"ours, none of the full 200 bars     {text}")
    print(f"ours, peak memory                   {peak_megabytes():>11,} MB ({before} MB before)")
    written: RegimeSnapshots = compute_regime_snapshots(series, starts[:100_000], ends[:100_000])
    _, text = rates(len(written), seconds_of(written.to_json, repeats))
    print(f"ours, stored JSON                   {text}")
    _, text = rates(1, seconds_of(lambda: compute_regime_snapshots(frame[:200], [0], [200]), 20 * repeats))
    print(f"ours, one window a call             {text}")

    def pandas_one_by_one() -> None:
        for start, end in zip(starts[:pandas_windows], ends[:pandas_windows], strict=True):
            regime_features(frame.iloc[start:end])

    theirs, text = rates(pandas_windows, seconds_of(pandas_one_by_one, repeats))
    print(f"pandas, one window a call           {text}")
    print(f"ratio                               {ours / theirs:>11,.0f}")


def main() -> None:
    """Compare, and unless it is a smoke test, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="compare few windows and measure nothing")
    parser.add_argument("--bars", type=int, default=100_000)
    parser.add_argument("--windows", type=int, default=1_000_000)
    parser.add_argument("--pandas-windows", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.smoke:
        assert_equal(random_walk(SMOKE_BARS), *random_windows(SMOKE_WINDOWS, 60, 2_000, SMOKE_BARS))
        print(f"{SMOKE_WINDOWS} windows equal")
        return
    print(f"Python {platform.python_version()}, numpy {np.__version__}, pandas {pd.__version__}")
    print(f"{arguments.windows:,} windows over {arguments.bars:,} bars, median of {arguments.repeats}")
    measure(arguments.bars, arguments.windows, arguments.pandas_windows, arguments.repeats)


if __name__ == "__main__":
    main()
