"""What the benchmarks of Dagster share: price files, databases, the web page and questions to it."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

from psycopg import sql

from kb_pipeline.storage import embedded, migrations
from kb_pipeline.storage.orchestration import commit_without_waiting
from kb_pipeline.storage.postgres import connect, ensure_database
from kb_pipeline.storage.urls import parse_database_url

ROOT = Path(__file__).resolve().parents[1]
Environment = Mapping[str, str]
LAUNCH = """mutation($keys: [String!]!) { launchPartitionBackfill(backfillParams: {
    assetSelection: [{path: ["regime_snapshots"]}], partitionNames: $keys}) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status } } }"""
RUNS = """query($id: String!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) {
    ... on Runs { results { startTime endTime } } } }"""


def make_prices(root: Path, symbols: int, days: int) -> None:
    """Write price files named S0001 and so on, with their calendars."""
    files = root / "ohlcv"
    files.mkdir(parents=True)
    names = [f"S{number:04}" for number in range(1, symbols + 1)]
    listed = "".join(f"  {name}: {{calendar: 24/7, timezone: UTC}}\n" for name in names)
    (root / "symbols.yaml").write_text(f"symbols:\n{listed}")
    # One price text for all: what is measured is the way there, not the numbers.
    dates = [time.strftime("%Y-%m-%d", time.gmtime(1_577_836_800 + 86_400 * day)) for day in range(days)]
    rows = [f"{day},{100 + at % 7},110,90,{100 + at % 5},1000" for at, day in enumerate(dates)]
    text = "\n".join(["timestamp,open,high,low,close,volume", *rows, ""])
    for name in names:
        (files / f"{name}_1d.csv").write_text(text)


def make_database(name: str, *, workspaces: int, symbols: int, runs: int) -> str:
    """Return the URL of a new database: workspaces w1 and so on, the first with runs of every symbol."""
    url = ensure_database(embedded.start(role=embedded.SUPERUSER), f"{name}_{os.getpid()}")
    migrations.migrate(url)
    with connect(url, timeouts=False) as connection:
        connection.execute(
            "INSERT INTO workspaces (name, slug) SELECT 'W' || n, 'w' || n FROM generate_series(1, %s) AS n",
            [workspaces],
        )
        connection.execute(
            "INSERT INTO kb_entities (workspace_id, type, name) SELECT id, 'strategy', 's' FROM workspaces"
        )
        connection.execute(
            "INSERT INTO backtest_runs"
            " (workspace_id, strategy_entity_id, status, run_kind, params, dataset_meta)"
            " SELECT e.workspace_id, e.id, 'completed', 'test_variant', '{}', jsonb_build_object("
            "   'symbol', 'S' || lpad(n::text, 4, '0'), 'date_min', '2020-02-01', 'date_max', '2020-12-01')"
            "  FROM kb_entities AS e JOIN workspaces AS w ON w.id = e.workspace_id AND w.slug = 'w1',"
            "       generate_series(1, %s) AS n, generate_series(1, %s)",
            [symbols, runs],
        )
    return url


def environment_of(url: str, root: Path, home: Path) -> dict[str, str]:
    """Return the environment of a Dagster instance of its own over a database and price files."""
    instance = ensure_database(url, f"{parse_database_url(url).database}_dagster")
    with connect(instance) as connection:
        # As `make ui` and `make shell` make it.
        commit_without_waiting(connection)
    # As in `make ui` and `make shell`, Python keeps what it compiled.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "KB_DATA_ROOT": str(root),
        # The work is kb_app's, under row-level security; the tables are made already.
        "KB_DATABASE_URL": url.replace(f"//{embedded.SUPERUSER}@", f"//{embedded.APP}@"),
        "KB_OWNER_DATABASE_URL": url,
        "KB_DAGSTER_DATABASE_URL": instance.replace("postgresql", "postgresql+psycopg2", 1),
        "DAGSTER_HOME": str(home),
        "DAGSTER_EVENT_BATCH_SIZE": "1000",
    }


def drop_databases() -> None:
    """Take away what this process made."""
    with connect(embedded.start(role=embedded.SUPERUSER), timeouts=False) as admin:
        made = admin.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE %s", [f"bench%\\_{os.getpid()}%"]
        )
        for (name,) in made.fetchall():
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


class Cost(NamedTuple):
    """Seconds of a command: by the clock, and of the processor in its own processes."""

    clock: float
    processor: float


def timed(command: list[str], environment: Environment) -> Cost:
    """Return what a command takes; it must succeed."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    clock, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return Cost(clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


@contextmanager
def served(environment: Environment) -> Iterator[str]:
    """Bring up the web page and the daemon and yield their address."""
    command = [sys.executable, "-m", "kb_pipeline.orchestration.serve"]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield next(line.strip() for line in process.stdout if "http://" in line)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def ask(address: str, query: str, **variables: Any) -> Any:
    """Return the data of a GraphQL query."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = Request(f"{address}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310 - loopback
    with urlopen(request, timeout=120) as answer:  # noqa: S310 - loopback
        said = json.load(answer)
    assert "errors" not in said, said["errors"]
    return said["data"]


def launch_backfill(address: str, keys: list[str]) -> tuple[float, float]:
    """Return the seconds of a backfill as its page launches it: all until it has ended, and its one run."""
    begin = time.perf_counter()
    launched = ask(address, LAUNCH, keys=keys)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    found = {"id": launched["backfillId"]}
    while (status := ask(address, BACKFILL, **found)["partitionBackfillOrError"]["status"]) == "REQUESTED":
        time.sleep(0.5)
    assert status == "COMPLETED_SUCCESS", status
    (run,) = ask(address, RUNS, **found)["runsOrError"]["results"]
    return time.perf_counter() - begin, run["endTime"] - run["startTime"]
