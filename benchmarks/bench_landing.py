"""Snapshots landed a second through the regime backfill, windows shared or each run's own."""

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.figures import Figure, in_turn, show
from benchmarks.synthetic import WORKSPACE_ID, fresh_copy, template
from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime
from kb_pipeline.storage.postgres import connect

BARS = 60_000
WINDOWS = {"windows of their own": 40_000, "windows shared by many": 50}
BATCH_SIZES = (1_000, 100)


def write_hourly_bars(path: Path) -> Path:
    """Write a price file of consecutive hours from 2000 on, the same every time."""
    close = 100 * np.exp(np.cumsum(np.random.default_rng(7).normal(0, 0.002, BARS)))
    spread = 1 + np.abs(np.random.default_rng(8).normal(0, 0.001, BARS))
    frame = pd.DataFrame(
        {
            "timestamp": pd.date_range("2000-01-01", periods=BARS, freq="h", tz="UTC").strftime(
                "%Y-%m-%dT%H:%M:%SZ"
            ),
            "open": close,
            "high": close * spread,
            "low": close / spread,
            "close": close,
            "volume": 1.0,
        }
    )
    frame.to_csv(path, index=False)
    return path


def landed_per_second(database: str, path: Path, batch_size: int) -> float:
    """Return the rate of one backfill on a fresh copy, reading the file included."""
    request = RegimeRequest(
        workspace_id=WORKSPACE_ID,
        ohlcv_file=path,
        symbol="BENCH",
        timeframe="1h",
        calendar="24/7",
        limit=None,
        batch_size=batch_size,
    )
    with fresh_copy(database) as url, connect(url) as connection:
        begin = time.perf_counter()
        report = backfill_regime(connection, request, dry_run=False)
        seconds = time.perf_counter() - begin
    assert report.updated == report.scanned > 0, report
    return report.updated / seconds


def figures(rows: int = 100_000, repeats: int = 3) -> Iterator[Figure]:
    """Yield the rate for each kind of window and batch size."""
    with tempfile.TemporaryDirectory() as directory:
        path = write_hourly_bars(Path(directory) / "BENCH_1h.csv")
        for kind, windows in WINDOWS.items():
            with template(runs=rows, windows=windows) as database:
                measures = [partial(landed_per_second, database, path, size) for size in BATCH_SIZES]
                for size, runs in zip(BATCH_SIZES, in_turn(repeats, *measures), strict=True):
                    yield Figure(f"snapshots landed, {kind}, {size:,} a commit", "rows/s", runs)


if __name__ == "__main__":
    show(figures())
