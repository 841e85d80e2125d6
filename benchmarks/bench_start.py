"""How long commands take from their start, and how much memory each process of the project has at most.

Every command is a process of its own, in its own interpreter; its peak is what the kernel counted.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.dagster_setup import drop_databases, environment_of, make_database, make_prices
from kb_pipeline.storage.postgres import connect

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5
_PEAK = (
    "import os, subprocess, sys; child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL,"
    " stderr=subprocess.DEVNULL); _, status, usage = os.wait4(child.pid, 0); print(usage.ru_maxrss)"
)


class Taken(NamedTuple):
    """Seconds of the fastest, the median and the slowest start, and the peak of memory."""

    low: float
    median: float
    high: float
    peak_mb: float


def taken(command: Sequence[str], environment: dict[str, str], repeats: int = REPEATS) -> Taken:
    """Return what a command takes; it must succeed the first time."""
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    seconds, peaks = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
        seconds.append(time.perf_counter() - begin)
    wrapped = [sys.executable, "-S", "-c", _PEAK, *command]
    peaks.append(int(subprocess.check_output(wrapped, env=environment, cwd=ROOT)) / 1024)
    return Taken(min(seconds), statistics.median(seconds), max(seconds), max(peaks))


def main() -> None:
    """Print a line for each command."""
    program = str(Path(sys.executable).with_name("kb-pipeline"))
    dagster = str(Path(sys.executable).with_name("dagster"))
    with tempfile.TemporaryDirectory() as directory:
        prices, home = Path(directory) / "data", Path(directory) / "home"
        make_prices(prices, symbols=1, days=400)
        home.mkdir()
        (home / "dagster.yaml").symlink_to(ROOT / "dagster.yaml")
        url = make_database("benchstart", workspaces=1, symbols=1, runs=10)
        with connect(url) as connection:
            (workspace_id,) = connection.execute("SELECT id::text FROM workspaces").fetchone() or ("",)
        environment = environment_of(url, prices, home)
        scope = ["--workspace-id", workspace_id]
        config = Path(directory) / "candidacy.yaml"
        config.write_text("ops: {candidacy: {config: {workspaces: [w1]}}}")
        file = str(prices / "ohlcv" / "S0001_1d.csv")
        regime = [program, "backfill-regime", *scope, "--ohlcv-file", file, "--symbol", "S0001"]
        commands = {
            "kb-pipeline --help": [program, "--help"],
            "kb-pipeline backfill-regime --help": [program, "backfill-regime", "--help"],
            "backfill-regime of 10 rows": [*regime, "--calendar", "24/7", "--dry-run", "--from-start"],
            "backfill-candidacy of 10 rows": [program, "backfill-candidacy", *scope, "--dry-run"],
            "backfill-attribution": [program, "backfill-attribution", *scope, "--dry-run"],
            "ingest-trials": [program, "ingest-trials", *scope, "--dry-run"],
            "regimes": [program, "regimes", *scope],
            "doctor": [program, "doctor"],
            "db status": [program, "db", "status"],
            "dagster definitions load": [
                *(sys.executable, "-c", "import kb_pipeline.definitions"),
            ],
            "dagster job execute backfill_candidacy": [
                *(dagster, "job", "execute", "-m", "kb_pipeline.definitions", "-j", "backfill_candidacy"),
                *("-c", str(config)),
            ],
        }
        print(f"{'command':42} {'seconds: median (low to high)':32} peak memory")
        for name, command in commands.items():
            got = taken(command, environment, 3 if "dagster" in name else REPEATS)
            span = f"{got.median:.2f} ({got.low:.2f} to {got.high:.2f})"
            print(f"{name:42} {span:32} {got.peak_mb:.0f} MB", flush=True)
    drop_databases()
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
