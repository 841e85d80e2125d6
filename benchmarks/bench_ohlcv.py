"""Reading a price file with every check, against pandas.read_csv alone, which checks nothing."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.figures import Figure, in_turn, show
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


def figures(rows: int = 5_000_000, repeats: int = 5) -> Iterator[Figure]:
    """Yield the time of reading with every check beside reading alone."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "BENCH_1m.csv"
        write_minute_bars(path, rows)
        ours, bare = in_turn(
            repeats,
            lambda: seconds(lambda: len(read_ohlcv_file(path, timeframe="1m").frame), rows),
            lambda: seconds(lambda: len(pd.read_csv(path, engine="c")), rows),
        )
    what = f"reading a price file of {rows:,} rows, every check"
    yield Figure(what, "s", ours, "pandas.read_csv alone, which checks nothing", bare)


if __name__ == "__main__":
    show(figures())
