"""A regime backfill of 1, 20 and 500 partitions through Dagster, against the same calls in one bare process.

Every way does the same work over the same files and rows, again and again in turn, and medians are shown;
partitions are of the demo's size. `start` is what Dagster's command takes longer than the bare process for
one partition of a workspace without runs, for which neither reads a file. Also: event rows a partition,
and seconds to load the definitions.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.dagster_setup import (
    ROOT,
    Cost,
    Environment,
    drop_databases,
    environment_of,
    launch_backfill,
    make_database,
    make_prices,
    served,
    timed,
)
from kb_pipeline.storage.postgres import connect

RUNS_PER_SYMBOL = 135
BARS = 3_270
SYMBOLS = 500
DAGSTER = str(Path(sys.executable).with_name("dagster"))
LOAD = "import time; a = time.perf_counter(); import kb_pipeline.definitions; print(time.perf_counter() - a)"
BARE = """
import sys; from pathlib import Path
from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime
from kb_pipeline.storage.orchestration import find_workspace, waiting_symbols
from kb_pipeline.storage.postgres import connect
root = Path(sys.argv[1])
with connect() as connection:
    workspace = find_workspace(connection, sys.argv[2])
    waiting = waiting_symbols(connection, workspace.id)
    for path in sorted((root / 'ohlcv').iterdir())[: int(sys.argv[3])]:
        if path.name[:5] not in waiting:
            continue
        request = RegimeRequest(workspace_id=workspace.id, ohlcv_file=path, symbol=path.name[:5],
                                limit=None, batch_size=100, data_root=root)
        backfill_regime(connection, request, dry_run=False)
"""
Way = Callable[[str, int], list[str]]
"""The command for the first so many symbols of a workspace."""


def materialize(module: str) -> Way:
    """Return the command that materializes the asset in one run of a code location."""
    select = [DAGSTER, "asset", "materialize", "-m", module, "--select", "regime_snapshots"]
    return lambda workspace, symbols: [
        *select,
        *("--partition-range", f"S0001|{workspace}...S{symbols:04}|{workspace}"),
    ]


def job(directory: Path) -> Way:
    """Return the command that executes the job for symbols by name."""

    def command(workspace: str, symbols: int) -> list[str]:
        names = [f"S{number:04}" for number in range(1, symbols + 1)]
        settings = {"ops": {"regimes": {"config": {"workspaces": [workspace], "symbols": names}}}}
        config = directory / f"{workspace}_{symbols}.json"
        config.write_text(json.dumps(settings))
        execute = [DAGSTER, "job", "execute", "-m", "kb_pipeline.definitions"]
        return [*execute, "-j", "backfill_regime", "-c", str(config)]

    return command


def undo(url: str) -> None:
    """Take all regimes away again."""
    with connect(url, timeouts=False) as connection:
        connection.execute("UPDATE backtest_runs SET regime_oos = NULL, regime_schema_version = NULL")
        connection.execute("VACUUM backtest_runs")


def compare(partitions: int, repeats: int, root: Path, directory: Path) -> None:
    """Print what each way takes over the bare process, in all and beyond its start."""
    url = make_database(f"bench_{partitions}", workspaces=2, symbols=partitions, runs=RUNS_PER_SYMBOL)
    environment = environment_of(url, root, directory / str(partitions))
    timed([sys.executable, "-m", "kb_pipeline.orchestration.sync"], environment)
    ways: dict[str, Way] = {
        "bare": lambda workspace, symbols: [sys.executable, "-c", BARE, str(root), workspace, str(symbols)],
        "asset": materialize("kb_pipeline.definitions"),
        "job": job(directory),
        "asset, a process a step": materialize("benchmarks.dagster_multiprocess"),
    }
    idle: dict[str, list[Cost]] = {name: [] for name in ways}
    busy: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            undo(url)
            busy[name].append(timed(way("w1", partitions), environment))
            idle[name].append(timed(way("w2", 1), environment))
    undo(url)
    rows = event_rows(environment, lambda: timed(ways["asset"]("w1", partitions), environment))
    print(f"{partitions} partitions, {rows / partitions:.1f} event rows each ({rows})")
    for kind, unit in enumerate(Cost._fields):
        through = {name: statistics.median(it[kind] for it in busy[name]) for name in ways}
        starts = {name: statistics.median(it[kind] for it in idle[name]) for name in ways}
        work = through["bare"] - starts["bare"]
        bare = through.pop("bare")
        print(f"  {unit}: bare {bare:.2f} s, {work:.2f} s of it work")
        for name, seconds in through.items():
            start = starts[name] - starts["bare"]
            beyond = seconds - bare - start
            share = (
                f"beyond it {beyond:+.2f} s = {beyond / bare:+.0%} of bare, {beyond / work:+.0%} of its work"
            )
            print(f"    {name}: {seconds:.2f} s, start {start:.2f} s, {share}")
    from_page(url, partitions, environment)


def event_rows(environment: Environment, run: Callable[[], object]) -> int:
    """Return how many event rows a run writes."""

    def count() -> int:
        row = connection.execute("SELECT count(*) FROM event_logs").fetchone()
        return int(row[0]) if row else 0

    with connect(environment["KB_DAGSTER_DATABASE_URL"].replace("+psycopg2", "")) as connection:
        before = count()
        run()
        return count() - before


def from_page(url: str, partitions: int, environment: Environment) -> None:
    """Print what a backfill launched from the page takes: its run, and all until its end was noticed."""
    keys = [f"S{number:04}|w1" for number in range(1, partitions + 1)]
    with served(environment) as address:
        undo(url)
        total, run = launch_backfill(address, keys)
    print(f"  launched from the page: run {run:.1f} s, until the backfill has ended {total:.0f} s")


def main() -> None:
    """Print every comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, nargs="*", default=[1, 20, SYMBOLS])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    loads = [
        float(subprocess.check_output([sys.executable, "-c", LOAD], cwd=ROOT, text=True)) for _ in range(5)
    ]
    print(f"definitions load: {statistics.median(loads):.2f} s, {min(loads):.2f} to {max(loads):.2f}")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "data"
        make_prices(root, max(arguments.partitions), BARS)
        try:
            for partitions in arguments.partitions:
                compare(partitions, arguments.repeats, root, Path(directory))
        finally:
            drop_databases()


if __name__ == "__main__":
    main()
