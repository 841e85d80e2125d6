"""Snapshots landed a second through the regime backfill, windows shared or each run's own."""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.synthetic import WORKSPACE_ID, fresh_copy, template
from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime
from kb_pipeline.storage.postgres import connect

BARS = 60_000
OWN_WINDOWS = 40_000
SHARED_WINDOWS = 50


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


def main() -> None:
    """Print the rate for each batch size and kind of window."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = write_hourly_bars(Path(directory) / "BENCH_1h.csv")
        for kind, windows in (("own", OWN_WINDOWS), ("shared", SHARED_WINDOWS)):
            with template(runs=arguments.rows, windows=windows) as database:
                for batch_size in (1_000, 100):
                    rates = [landed_per_second(database, path, batch_size) for _ in range(arguments.runs)]
                    print(
                        f"{kind} windows, batch {batch_size}: median {statistics.median(rates):,.0f} rows/s "
                        f"(from {min(rates):,.0f} to {max(rates):,.0f})"
                    )


if __name__ == "__main__":
    main()
