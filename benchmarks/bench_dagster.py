"""A regime backfill of 1, 20 and 500 partitions through Dagster, against the same through the command line.

Both do the same work over the same files and rows, on fresh copies of one database. Also: event rows a
partition, seconds to load the definitions, and the pages of 20 workspaces x 500 symbols.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.request import Request, urlopen

from psycopg import sql

from kb_pipeline.storage import embedded, migrations
from kb_pipeline.storage.postgres import connect, ensure_database

ROOT = Path(__file__).resolve().parents[1]
RUNS_PER_SYMBOL = 20
WORKSPACES = 20
SYMBOLS = 500
BIN = Path(sys.executable).parent
PAGES = {
    "asset page": """{ assetNodeOrError(assetKey: {path: ["regime_snapshots"]}) { ... on AssetNode {
        description
        assetPartitionStatuses { ... on MultiPartitionStatuses { primaryDimensionName
        ranges { primaryDimStartKey primaryDimEndKey } } }
        partitionStats { numMaterialized numPartitions } } } }""",
    "asset graph": "{ assetNodes { assetKey { path } partitionStats { numMaterialized numPartitions } } }",
}


def make_prices(root: Path, symbols: int) -> None:
    """Write price files of 400 days each, named S001 and so on, with their calendars."""
    files = root / "ohlcv"
    files.mkdir(parents=True)
    names = [f"S{number:03}" for number in range(1, symbols + 1)]
    listed = "".join(f"  {name}: {{calendar: 24/7, timezone: UTC}}\n" for name in names)
    (root / "symbols.yaml").write_text(f"symbols:\n{listed}")
    # One price text for all: what is measured is the way there, not the numbers.
    days = [time.strftime("%Y-%m-%d", time.gmtime(1_577_836_800 + 86_400 * day)) for day in range(400)]
    rows = [f"{day},{100 + at % 7},110,90,{100 + at % 5},1000" for at, day in enumerate(days)]
    text = "\n".join(["timestamp,open,high,low,close,volume", *rows, ""])
    for name in names:
        (files / f"{name}_1d.csv").write_text(text)


def make_database(name: str, symbols: int) -> str:
    """Return the URL of a new database: one workspace with runs of every symbol, and others with none."""
    url = ensure_database(embedded.start(), name)
    migrations.migrate(url)
    with connect(url, timeouts=False) as connection:
        connection.execute(
            "INSERT INTO workspaces (name, slug) SELECT 'W' || n, 'w' || n FROM generate_series(1, %s) AS n",
            [WORKSPACES],
        )
        connection.execute(
            "INSERT INTO kb_entities (workspace_id, type, name) SELECT id, 'strategy', 's' FROM workspaces"
        )
        connection.execute(
            "INSERT INTO backtest_runs"
            " (workspace_id, strategy_entity_id, status, run_kind, params, dataset_meta)"
            " SELECT e.workspace_id, e.id, 'completed', 'test_variant', '{}', jsonb_build_object("
            "   'symbol', 'S' || lpad(n::text, 3, '0'), 'date_min', '2020-02-01', 'date_max', '2020-12-01')"
            "  FROM kb_entities AS e JOIN workspaces AS w ON w.id = e.workspace_id AND w.slug = 'w1',"
            "       generate_series(1, %s) AS n, generate_series(1, %s)",
            [symbols, RUNS_PER_SYMBOL],
        )
    return url


def drop_databases() -> None:
    """Take away what this process made."""
    with connect(embedded.start(), timeouts=False) as admin:
        made = admin.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE %s", [f"bench%\\_{os.getpid()}"]
        )
        for (name,) in made.fetchall():
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def timed(command: list[str], environment: Mapping[str, str]) -> float:
    """Return the seconds a command takes; it must succeed."""
    begin = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return time.perf_counter() - begin


def one_process(root: Path, symbols: int, environment: Mapping[str, str]) -> float:
    """Return the seconds of the same backfills in one bare Python process, without a start for each."""
    program = (
        "import sys; from pathlib import Path\n"
        "from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime\n"
        "from kb_pipeline.storage.orchestration import find_workspace\n"
        "from kb_pipeline.storage.postgres import connect\n"
        "root = Path(sys.argv[1])\n"
        "with connect() as connection:\n"
        "    workspace = find_workspace(connection, 'w1')\n"
        "    for path in sorted((root / 'ohlcv').iterdir())[: int(sys.argv[2])]:\n"
        "        request = RegimeRequest(workspace_id=workspace.id, ohlcv_file=path, symbol=path.name[:4],\n"
        "                                limit=None, data_root=root)\n"
        "        backfill_regime(connection, request, dry_run=False)\n"
    )
    return timed([sys.executable, "-c", program, str(root), str(symbols)], environment)


def compare(symbols: int, root: Path, home: Path, start: float | None) -> float:
    """Print the ratio for one number of partitions and the event rows each costs.

    `start` is what Dagster's own start costs. Returns it, measured here where it is not known yet.
    """
    suffix = f"{symbols}_{os.getpid()}"
    environment = dict(os.environ) | {"KB_DATA_ROOT": str(root), "PYTHONPATH": str(ROOT)}
    urls = [make_database(f"bench_dagster_{way}_{suffix}", symbols) for way in ("cli", "dagster")]
    bare = one_process(root, symbols, environment | {"KB_DATABASE_URL": urls[0]})
    instance = ensure_database(urls[1], f"bench_instance_{suffix}")
    ours = environment | {
        "KB_DATABASE_URL": urls[1],
        "KB_DAGSTER_DATABASE_URL": instance.replace("postgresql", "postgresql+psycopg2", 1),
        "DAGSTER_HOME": str(home / suffix),
        "DAGSTER_EVENT_BATCH_SIZE": "1000",
    }
    timed([sys.executable, "-m", "kb_pipeline.orchestration.sync"], ours)
    select = ["--select", "regime_snapshots", "--partition-range", f"S001|w1...S{symbols:03}|w1"]
    through = timed(
        [str(BIN / "dagster"), "asset", "materialize", "-m", "kb_pipeline.definitions", *select], ours
    )
    with connect(instance) as connection:
        row = connection.execute("SELECT count(*) FROM event_logs").fetchone()
    events = row[0] if row else 0
    start = through - bare if start is None else start
    print(
        f"{symbols} partitions: Dagster {through:.1f} s, one bare process {bare:.1f} s, "
        f"ratio {through / bare:.2f}, without its start ({start:.1f} s) {(through - start) / bare:.2f}; "
        f"{events / symbols:.1f} event rows a partition ({events} in all)"
    )
    return start


def pages(root: Path, home: Path) -> None:
    """Print how long the page's queries take with 20 workspaces x 500 symbols."""
    url = make_database(f"bench_pages_{os.getpid()}", 1)
    instance = ensure_database(url, f"bench_pages_instance_{os.getpid()}")
    environment = dict(os.environ) | {
        "KB_DATABASE_URL": url,
        "KB_DATA_ROOT": str(root),
        "KB_DAGSTER_DATABASE_URL": instance.replace("postgresql", "postgresql+psycopg2", 1),
        "DAGSTER_HOME": str(home / "pages"),
    }
    command = [sys.executable, "-m", "kb_pipeline.orchestration.serve"]
    served = subprocess.Popen(command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert served.stdout is not None
    address = next(line.strip() for line in served.stdout if "http://" in line)
    try:
        for name, query in PAGES.items():
            seconds = [_ask(address, query) for _ in range(3)]
            print(
                f"{name}, {WORKSPACES} x {SYMBOLS}: first {seconds[0]:.2f} s, then {min(seconds[1:]):.2f} s"
            )
    finally:
        served.send_signal(signal.SIGINT)
        served.wait(40)


def _ask(address: str, query: str) -> float:
    body = json.dumps({"query": query}).encode()
    request = Request(f"{address}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310 - loopback
    begin = time.perf_counter()
    with urlopen(request, timeout=60) as answer:  # noqa: S310 - loopback
        said = json.load(answer)
    assert "errors" not in said, said["errors"]
    return time.perf_counter() - begin


def main() -> None:
    """Print every ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, nargs="*", default=[1, 20, SYMBOLS])
    arguments = parser.parse_args()
    load = (
        "import time; a = time.perf_counter(); import kb_pipeline.definitions; print(time.perf_counter() - a)"
    )
    done = subprocess.run([sys.executable, "-c", load], cwd=ROOT, capture_output=True, text=True, check=True)
    print(f"definitions load, imports included: {float(done.stdout):.2f} s")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "data"
        make_prices(root, SYMBOLS)
        start: float | None = None
        try:
            for partitions in arguments.partitions:
                start = compare(partitions, root, Path(directory), start)
            pages(root, Path(directory))
        finally:
            drop_databases()


if __name__ == "__main__":
    main()
