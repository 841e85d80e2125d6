"""How cost grows with what there is: time, memory and rows read an item, from small to large, with a plot.

`python -m benchmarks.growth [SERIES ...]`. Each measurement has a process of its own, because peak memory
never falls (libraries are imported where they are used, for the same reason), and what it changes is a
database of its own. An item is what the answer counts: a run decided, a tune attributed, a regime listed, a
partition registered, a bar read.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.bench_features import random_walk, random_windows
from benchmarks.bench_landing import write_hourly_bars
from benchmarks.bench_ohlcv import write_minute_bars
from benchmarks.dagster_setup import drop_databases, environment_of, make_database, make_prices
from benchmarks.figures import in_a_process, machine, peak_megabytes
from benchmarks.synthetic import WORKSPACE_ID, fresh_copy, template
from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime
from kb_pipeline.domain.price_bars import PriceBars
from kb_pipeline.domain.regime import compute_regime_snapshots
from kb_pipeline.questions.best import best_parameters, regime_summary
from kb_pipeline.storage.embedded import APP, SUPERUSER
from kb_pipeline.storage.ohlcv_files import read_ohlcv_file
from kb_pipeline.storage.postgres import Connection, connect

RESULTS: Final = Path("benchmarks/results/growth.json")
PLOT: Final = Path("docs/images/growth.png")

ROWS_READ: Final = """
SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables)
     + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)
"""
"""Rows that scans of tables read and entries that scans of indexes gave, since the database was made."""


class Cost(NamedTuple):
    """What one measurement took, and for how many items; rows read are those of Postgres."""

    seconds: float
    items: int
    megabytes: float
    rows_read: int | None = None


class Series(NamedTuple):
    """A cost that is measured at growing sizes."""

    item: str
    of: str
    sizes: Sequence[int]
    measure: Callable[[int], Cost]


@contextmanager
def _counted(url: str) -> Iterator[list[int]]:
    """Yield a list that holds the rows read meanwhile, once all sessions of the work have ended."""

    def count() -> int:
        with connect(url.replace(f"//{APP}@", f"//{SUPERUSER}@")) as admin:
            row = admin.execute(ROWS_READ).fetchone()
        return int(row[0]) if row else 0

    rows_read: list[int] = []
    before = count()
    yield rows_read
    time.sleep(1.2)  # a session's last counts are seen a second later at the latest
    rows_read.append(count() - before)


def _worked(url: str, work: Callable[[Connection], int]) -> Cost:
    """Return what some work in one session took, which says how many items it did."""
    with _counted(url) as rows_read, connect(url) as connection:
        begin = time.perf_counter()
        items = work(connection)
        seconds = time.perf_counter() - begin
        connection.close()
    return Cost(seconds, items, peak_megabytes(), rows_read[0])


def candidacy(runs: int) -> Cost:
    """Put this many runs through the gate."""
    request = CandidacyRequest(workspace_id=WORKSPACE_ID, limit=None, batch_size=1_000)
    with template(runs=runs) as database, fresh_copy(database) as url:
        return _worked(url, lambda it: backfill_candidacy(it, request, dry_run=False).scanned)


def landing(runs: int) -> Cost:
    """Land the snapshots of this many runs, each of a window of its own."""
    with tempfile.TemporaryDirectory() as directory:
        path = write_hourly_bars(Path(directory) / "BENCH_1h.csv")
        request = RegimeRequest(
            workspace_id=WORKSPACE_ID,
            ohlcv_file=path,
            symbol="BENCH",
            timeframe="1h",
            calendar="24/7",
            limit=None,
            batch_size=1_000,
        )
        with template(runs=runs) as database, fresh_copy(database) as url:
            return _worked(url, lambda it: backfill_regime(it, request, dry_run=False).updated)


def attribution(tunes: int) -> Cost:
    """Attribute this many tunes of ten trials."""
    request = AttributionRequest(workspace_id=WORKSPACE_ID, limit=None, batch_size=1_000)
    with template(tunes=tunes) as database, fresh_copy(database) as url:
        return _worked(url, lambda it: backfill_attribution(it, request, dry_run=False).updated)


def best(tunes: int) -> Cost:
    """Ask a hundred times for the ten best parameter sets of a regime among this many tunes."""
    regime_key = "regime_v1_1|default_v1|uptrend|high_vol|noisy"

    def ask(connection: Connection) -> int:
        answers = (best_parameters(connection, WORKSPACE_ID, regime_key=regime_key) for _ in range(100))
        return sum(len(answer.tunes) for answer in answers)

    with template(attributed=tunes) as database, fresh_copy(database) as url:
        return _worked(url, ask)


def regimes(tunes: int) -> Cost:
    """List the regimes that this many tunes were won in."""

    with template(attributed=tunes) as database, fresh_copy(database) as url:
        return _worked(url, lambda it: len(regime_summary(it, WORKSPACE_ID)))


def partitions(pairs: int) -> Cost:
    """Register the workspaces and symbols of this many pairs, look again, and list the keys of all."""
    import dagster as dg

    from kb_pipeline.orchestration.instance import prepare_environment
    from kb_pipeline.orchestration.partitions import PAIRS
    from kb_pipeline.orchestration.resources import Database, Prices, sync_partitions

    workspaces = {100: 10, 1_000: 10, 10_000: 20, 100_000: 100}.get(pairs, 1)
    with tempfile.TemporaryDirectory() as directory:
        root, home = Path(directory) / "data", Path(directory) / "home"
        make_prices(root, pairs // workspaces, 2)
        url = make_database("bench_growth", workspaces=workspaces, symbols=1, runs=1)
        os.environ.update(environment_of(url, root, home))
        prepare_environment()
        try:
            with dg.DagsterInstance.get() as instance:
                begin = time.perf_counter()
                for _ in range(2):
                    sync_partitions(instance, Database(), Prices(), remove=True)
                keys = PAIRS.get_partition_keys(dynamic_partitions_store=instance)
                seconds = time.perf_counter() - begin
        finally:
            drop_databases()
    return Cost(seconds, len(keys), peak_megabytes())


def bars_read(bars: int) -> Cost:
    """Read and check a price file of this many bars."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "BENCH_1m.csv"
        write_minute_bars(path, bars)
        begin = time.perf_counter()
        items = len(read_ohlcv_file(path, timeframe="1m").frame)
        return Cost(time.perf_counter() - begin, items, peak_megabytes())


def windows(bars: int) -> Cost:
    """Compute the regimes of 100,000 windows over this many bars."""
    series = PriceBars.from_frame(random_walk(bars))
    starts, ends = random_windows(100_000, 60, 2_000, bars)
    begin = time.perf_counter()
    compute_regime_snapshots(series, starts, ends)
    return Cost(time.perf_counter() - begin, len(starts), peak_megabytes())


_RUNS: Final = (10_000, 100_000, 1_000_000, 10_000_000)
_TUNES: Final = (10_000, 100_000, 1_000_000)
_BARS: Final = (10_000, 100_000, 1_000_000, 5_000_000)

SERIES: Final[Mapping[str, Series]] = {
    "candidacy": Series("run", "runs", _RUNS, candidacy),
    "landing": Series("run", "runs", _RUNS[:3], landing),
    "attribution": Series("tune", "tunes", _TUNES, attribution),
    "best": Series("row of the answer", "tunes", _TUNES, best),
    "regimes": Series("regime listed", "tunes", _TUNES, regimes),
    "partitions": Series("pair", "pairs", (100, 1_000, 10_000, 100_000), partitions),
    "bars_read": Series("bar", "bars", _BARS, bars_read),
    "windows": Series("window", "bars", _BARS, windows),
}

Found = dict[str, dict[str, Cost]]
"""What was measured: by series, then by size."""


def table(name: str, costs: Mapping[str, Cost]) -> list[str]:
    """Return one series as a table in Markdown."""
    series = SERIES[name]
    return [
        f"| {series.of} | in all | microseconds a {series.item} | peak memory | rows read a {series.item} |",
        "|--:|--:|--:|--:|--:|",
        *(
            f"| {int(size):,} | {cost.seconds:,.3g} s | {cost.seconds / cost.items * 1e6:,.3g} "
            f"| {cost.megabytes:,.0f} MB | {_rows_each(cost)} |"
            for size, cost in costs.items()
        ),
    ]


def _rows_each(cost: Cost) -> str:
    return "" if cost.rows_read is None else f"{cost.rows_read / cost.items:,.2f}"


def plot(found: Found, path: Path) -> None:
    """Draw time an item against that of the smallest size, peak memory, and rows read an item."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    time_axes, memory_axes, rows_axes = figure.subplots(1, 3)
    for name, costs in found.items():
        sizes = [int(size) for size in costs]
        each = [cost.seconds / cost.items for cost in costs.values()]
        time_axes.plot(sizes, [it / each[0] for it in each], marker="o", markersize=3, label=name)
        memory_axes.plot(sizes, [cost.megabytes for cost in costs.values()], marker="o", markersize=3)
        rows = [cost.rows_read / cost.items for cost in costs.values() if cost.rows_read]
        rows_axes.plot(sizes[: len(rows)], rows, marker="o", markersize=3)
    for axes, title in (
        (time_axes, "Time an item, against the smallest"),
        (memory_axes, "Peak memory, MB"),
        (rows_axes, "Rows read an item"),
    ):
        axes.set(xscale="log", yscale="log", title=title, xlabel="runs, tunes, pairs or bars")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:,g}"))
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _kept() -> Any:
    return json.loads(RESULTS.read_text())["series"] if RESULTS.exists() else {}


def main() -> None:
    """Measure the series named, all by default, and draw all that has been measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="SERIES", help=f"of {', '.join(SERIES)}")
    parser.add_argument("--largest", type=int, help="measure no larger size")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(SERIES[arguments.names[0]].measure(arguments.one)))
        return
    found: Found = {
        name: {size: Cost(*cost) for size, cost in costs.items()} for name, costs in _kept().items()
    }
    for name in arguments.names or SERIES:
        found[name] = {}
        for size in (it for it in SERIES[name].sizes if it <= (arguments.largest or it)):
            said = in_a_process("benchmarks.growth", name, "--one", str(size))
            found[name][str(size)] = Cost(*json.loads(said))
        print("", f"## {name}", "", *table(name, found[name]), sep="\n", flush=True)
    ordered = {name: found[name] for name in SERIES if name in found}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine(), "series": ordered}, indent=1) + "\n")
    plot(ordered, PLOT)


if __name__ == "__main__":
    main()
