"""How time, memory and rows scanned grow with the data: `python -m benchmarks.growth [NAME ...]`.

Every point is measured in a process of its own, because peak memory never falls. Rows scanned are what
Postgres counts in the user's tables (by sequential scan and by index), foreign keys' own look-ups
included. The curves are drawn and the tables written beside the other results; `docs/growth.md` says
what they mean.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.figures import in_a_process, machine, peak_megabytes
from benchmarks.growth_plots import draw
from benchmarks.synthetic import WORKSPACE_ID, drop_all, fresh_copy, template

RESULTS: Final = Path("benchmarks/results")
_SCANNED: Final = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables"
_CALLS: Final = 20
_TICKS: Final = 5


class Point(NamedTuple):
    """One size: what one result took, the peak memory of the process, and rows scanned for a result."""

    size: int
    results: int
    seconds: float
    megabytes: float
    scanned: float | None


class Act(NamedTuple):
    """What was done: how many results, in how many seconds."""

    results: int
    seconds: float


def _timed(work: Callable[[], int]) -> Act:
    begin = time.perf_counter()
    results = work()
    return Act(results, time.perf_counter() - begin)


def _called(call: Callable[[], int], calls: int = _CALLS) -> Act:
    """Return the median of calls, after one that does not count."""
    acts = [_timed(call) for _ in range(calls + 1)][1:]
    return Act(acts[0].results, statistics.median(act.seconds for act in acts))


# --- Postgres ----------------------------------------------------------------------------------


def _rows_scanned(url: str) -> int:
    from kb_pipeline.storage.postgres import connect

    # A session tells what it counted when it ends, and it ends a moment after its client let go of it.
    time.sleep(0.3)
    with connect(url) as connection:
        return int((connection.execute(_SCANNED).fetchone() or (0,))[0])


def _in_a_copy(sizes: dict[str, int], work: Callable[[Any], Act], *, calls: int = 1) -> tuple[Act, float]:
    """Return what the work did in a copy of a filled database, and the rows it scanned for a result."""
    from kb_pipeline.storage.postgres import connect

    with template(**sizes) as database, fresh_copy(database) as url:
        before = _rows_scanned(url)
        with connect(url) as connection:
            act = work(connection)
        return act, (_rows_scanned(url) - before) / calls / act.results


def candidacy(runs: int) -> tuple[Act, float]:
    """Candidacy of all runs, 1,000 a commit."""
    from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy

    request = CandidacyRequest(workspace_id=WORKSPACE_ID, limit=None, batch_size=1_000)
    return _in_a_copy(
        {"runs": runs}, lambda it: _timed(lambda: backfill_candidacy(it, request, dry_run=False).scanned)
    )


def landing(runs: int) -> tuple[Act, float]:
    """Snapshots of all runs landed, 1,000 a commit, the reading of the price file included."""
    from benchmarks.bench_landing import write_hourly_bars
    from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime

    with tempfile.TemporaryDirectory() as directory:
        request = RegimeRequest(
            workspace_id=WORKSPACE_ID,
            ohlcv_file=write_hourly_bars(Path(directory) / "BENCH_1h.csv"),
            symbol="BENCH",
            timeframe="1h",
            calendar="24/7",
            limit=None,
            batch_size=1_000,
        )
        return _in_a_copy(
            {"runs": runs}, lambda it: _timed(lambda: backfill_regime(it, request, dry_run=False).updated)
        )


def attribution(tunes: int) -> tuple[Act, float]:
    """Attribution of all tunes of ten trials each, 1,000 a commit."""
    from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution

    request = AttributionRequest(workspace_id=WORKSPACE_ID, limit=None, batch_size=1_000)
    return _in_a_copy(
        {"tunes": tunes}, lambda it: _timed(lambda: backfill_attribution(it, request, dry_run=False).updated)
    )


def recommend(tunes: int) -> tuple[Act, float]:
    """One recommendation of five parameter sets of the same regime."""
    from benchmarks.bench_recommend import TIERS_BY_KEY
    from kb_pipeline.questions.recommend import RecommendRequest
    from kb_pipeline.questions.recommend import recommend as ask

    def call(connection: Any) -> Act:
        (strategy_id,) = connection.execute("SELECT id FROM kb_entities ORDER BY name LIMIT 1").fetchone()
        request = RecommendRequest(
            workspace_id=WORKSPACE_ID,
            strategy=str(strategy_id),
            timeframe="1h",
            objective="sharpe",
            regime_key=TIERS_BY_KEY[0][0],
        )
        return _called(lambda: len(ask(connection, request).candidates))

    return _asked(tunes, call)


def best(tunes: int) -> tuple[Act, float]:
    """The ten best parameter sets of a regime."""
    from benchmarks.bench_recommend import TIERS_BY_KEY
    from kb_pipeline.questions.best import best_parameters

    key = TIERS_BY_KEY[0][0]
    return _asked(
        tunes,
        lambda it: _called(lambda: len(best_parameters(it, WORKSPACE_ID, regime_key=key).tunes)),
    )


def regimes(tunes: int) -> tuple[Act, float]:
    """The summary of all regimes, which counts every tune."""
    from kb_pipeline.storage.questions import regime_counts

    return _asked(tunes, lambda it: _called(lambda: len(regime_counts(it, WORKSPACE_ID))))


def _asked(tunes: int, call: Callable[[Any], Act]) -> tuple[Act, float]:
    def work(connection: Any) -> Act:
        with connection.working_in(WORKSPACE_ID):
            return call(connection)

    return _in_a_copy({"attributed": tunes}, work, calls=_CALLS + 1)


# --- Bars --------------------------------------------------------------------------------------


def reading(bars: int) -> tuple[Act, None]:
    """A price file read with every check."""
    from benchmarks.bench_ohlcv import write_minute_bars
    from kb_pipeline.storage.ohlcv_files import read_ohlcv_file

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "BENCH_1m.csv"
        # Written elsewhere: its memory is not that of the reading.
        if (child := os.fork()) == 0:
            write_minute_bars(path, bars)
            os._exit(0)
        os.waitpid(child, 0)
        return _timed(lambda: len(read_ohlcv_file(path, timeframe="1m").frame)), None


def features(bars: int) -> tuple[Act, None]:
    """The regime of every window of 200 bars of a series, one a bar."""
    from benchmarks.bench_features import random_walk
    from kb_pipeline.domain.price_bars import PriceBars
    from kb_pipeline.domain.regime import compute_regime_snapshots

    series = PriceBars.from_frame(random_walk(bars))
    ends = np.arange(200, bars + 1)
    return _timed(lambda: len(compute_regime_snapshots(series, ends - 200, ends))), None


# --- Partitions --------------------------------------------------------------------------------


@contextmanager
def _catalogue(symbols: int) -> Iterator[Any]:
    """Yield a Dagster instance over Postgres in which this many symbols have a price file."""
    import dagster as dg

    from benchmarks.dagster_setup import ROOT, drop_databases, environment_of, make_database, make_prices

    with tempfile.TemporaryDirectory() as directory:
        root, home = Path(directory) / "data", Path(directory) / "home"
        make_prices(root, symbols, days=1)
        home.mkdir()
        (home / "dagster.yaml").symlink_to(ROOT / "dagster.yaml")
        os.environ.update(
            environment_of(make_database("bench_growth", workspaces=1, symbols=1, runs=1), root, home)
        )
        try:
            with dg.DagsterInstance.get() as instance:
                yield instance
        finally:
            drop_databases()


def sync(partitions: int) -> tuple[Act, None]:
    """New partitions registered, `partitions sync`."""
    from kb_pipeline.orchestration.resources import Database, Prices, sync_partitions

    def work() -> int:
        changes = sync_partitions(instance, Database(), Prices(), remove=True)
        return sum(len(change.add) for change in changes.values())

    with _catalogue(partitions) as instance:
        return _timed(work), None


def tick(partitions: int) -> tuple[Act, float]:
    """A tick of the sensor new_partitions when nothing is new."""
    return _ticked(partitions, fresh=0)


def tick_new(partitions: int) -> tuple[Act, float]:
    """A tick of the sensor new_partitions that finds one new symbol and lists all."""
    return _ticked(partitions, fresh=1)


def _ticked(partitions: int, *, fresh: int) -> tuple[Act, float]:
    import dagster as dg

    from kb_pipeline.orchestration.resources import Database, Prices, sync_partitions
    from kb_pipeline.orchestration.sensors import new_partitions
    from kb_pipeline.storage.price_files import LISTING_SETTLES_AFTER_SECONDS

    with _catalogue(partitions) as instance:
        resources = {"database": Database(), "prices": Prices()}
        sync_partitions(instance, Database(), Prices(), remove=True)
        time.sleep(LISTING_SETTLES_AFTER_SECONDS + 1)

        def once(cursor: str | None) -> dg.SensorResult:
            context = dg.build_sensor_context(
                instance=instance, cursor=cursor, sensor_name="new_partitions", resources=resources
            )
            found = new_partitions(context)
            assert isinstance(found, dg.SensorResult)
            return found

        settled = once(None).cursor
        if fresh:
            (Prices().root / "ohlcv" / "NEW_1d.csv").touch()
        before = _rows_of_the_instance(instance)

        def call() -> int:
            assert len(once(settled).dynamic_partitions_requests or ()) == fresh
            return 1

        act = _called(call, _TICKS)
        return act, (_rows_of_the_instance(instance) - before) / (_TICKS + 1)


def _rows_of_the_instance(instance: Any) -> int:
    """Return the rows that the sessions of the instance and of the sensor scanned so far."""
    # A session of the instance is held for a second; asked after that it is a new one, and the old one told.
    time.sleep(1.2)
    instance.has_dynamic_partition("none", "none")
    urls = (os.environ["KB_DAGSTER_DATABASE_URL"].replace("+psycopg2", ""), os.environ["KB_DATABASE_URL"])
    return sum(_rows_scanned(url) for url in urls)


SERIES: Final[dict[str, tuple[Callable[[int], tuple[Act, float | None]], Sequence[int]]]] = {
    "candidacy": (candidacy, (10_000, 100_000, 1_000_000)),
    "landing": (landing, (10_000, 100_000, 1_000_000)),
    "attribution": (attribution, (1_000, 10_000, 100_000)),
    "recommend": (recommend, (10_000, 100_000, 1_000_000)),
    "best": (best, (10_000, 100_000, 1_000_000)),
    "regimes": (regimes, (10_000, 100_000, 1_000_000)),
    "reading": (reading, (10_000, 100_000, 1_000_000, 5_000_000)),
    "features": (features, (10_000, 100_000, 1_000_000, 5_000_000)),
    "sync": (sync, (100, 1_000, 10_000, 100_000)),
    "tick": (tick, (100, 1_000, 10_000, 100_000)),
    "tick_new": (tick_new, (100, 1_000, 10_000, 100_000)),
}


def measure(name: str, size: int) -> Point:
    """Return one point, measured in this process."""
    act, scanned = SERIES[name][0](size)
    return Point(size, act.results, act.seconds, peak_megabytes(), scanned)


def table(name: str, points: Sequence[Point]) -> str:
    """Return a series as Markdown."""
    lines = [
        f"## {name}",
        "",
        str(SERIES[name][0].__doc__),
        "",
        "| size | results | seconds | microseconds a result | peak memory, MB | rows scanned a result |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for it in points:
        scanned = "" if it.scanned is None else f"{it.scanned:,.2f}"
        each = it.seconds / it.results * 1e6
        lines.append(
            f"| {it.size:,} | {it.results:,} | {it.seconds:,.4g} | {each:,.4g}"
            f" | {it.megabytes:,.0f} | {scanned} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure series, write tables and JSON, and draw the curves of all that was ever measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SERIES)}; all by default")
    parser.add_argument("--sizes", type=int, nargs="+", help="instead of the sizes of each series")
    parser.add_argument("--drop", action="store_true", help="drop the databases that were filled")
    parser.add_argument("--point", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(measure(arguments.names[0], arguments.point)))
        return
    kept = RESULTS / "growth.json"
    found = json.loads(kept.read_text(encoding="utf-8"))["points"] if kept.exists() else {}
    for name in arguments.names or ([] if arguments.drop else SERIES):
        for size in arguments.sizes or SERIES[name][1]:
            line = in_a_process("benchmarks.growth", name, "--point", str(size))
            print(name, line, flush=True)
            others = [it for it in found.get(name, []) if it[0] != size]
            found[name] = sorted([*others, json.loads(line)])
            RESULTS.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps({"machine": machine(), "points": found}, indent=1) + "\n")
    if arguments.drop:
        drop_all()
    series = {name: [Point(*it) for it in found[name]] for name in SERIES if name in found}
    text = "\n".join(table(name, points) for name, points in series.items())
    (RESULTS / "growth.md").write_text(f"# Growth\n\n{text}", encoding="utf-8")
    draw(series, Path("docs/images"))


if __name__ == "__main__":
    main()
