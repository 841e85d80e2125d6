"""Reading a price file with every check, against pandas.read_csv alone, which checks nothing."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from kb_pipeline.storage.ohlcv_files import read_ohlcv_file


def write_minute_bars(path: Path, rows: int) -> None:
    """Write a price file of consecutive minutes from 2000 on."""
    close = (100 * np.exp(np.cumsum(np.random.default_rng(3).normal(0, 0.0002, rows)))).round(4)
    times = pd.date_range("2000-01-01", periods=rows, freq="min", tz="UTC").strftime("%Y-%m-%dT%H:%M:%SZ")
    columns = {
        "timestamp": times,
        "open": close,
        "high": (close + 0.01).round(4),
        "low": (close - 0.01).round(4),
        "close": close,
        "volume": 10,
    }
    pd.DataFrame(columns).to_csv(path, index=False)


def seconds(call: Callable[[], int], rows: int) -> float:
    """Return how long a call takes that must return this many rows."""
    begin = time.perf_counter()
    assert call() == rows
    return time.perf_counter() - begin


def main() -> None:
    """Print the ratio, pair by pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "BENCH_1m.csv"
        write_minute_bars(path, arguments.rows)
        ratios = []
        for _ in range(arguments.pairs):
            bare = seconds(lambda: len(pd.read_csv(path, engine="c")), arguments.rows)
            ours = seconds(lambda: len(read_ohlcv_file(path, timeframe="1m").frame), arguments.rows)
            ratios.append(ours / bare)
            print(f"read_csv {bare:.2f} s, validated {ours:.2f} s, ratio {ratios[-1]:.2f}")
        print(f"median {statistics.median(ratios):.2f} times pandas.read_csv, {arguments.rows:,} rows")


if __name__ == "__main__":
    main()
