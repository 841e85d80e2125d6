"""Run every backfill on two machines and kill one: the results are those of a single process.

A real Dask scheduler and two workers, each in a network namespace of its own where this machine allows it
(root on Linux), else on the loopback address; the database is reached over the network either way. Nothing
leaves this machine. `make machines` runs it on the demo history, and on a larger one for the time.
"""

import argparse
import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from kb_pipeline.storage import embedded
from kb_pipeline.storage.demo import load_demo
from kb_pipeline.storage.migrations import migrate
from kb_pipeline.storage.postgres import connect, ensure_database
from kb_pipeline.storage.urls import parse_database_url

ROOT: Final = Path(__file__).resolve().parents[1]
Environment = Mapping[str, str]
RESULTS: Final = {
    "runs": """SELECT id, regime_oos - 'computed_at', regime_is - 'computed_at', kb_status,
                      auto_candidate_gate
                 FROM backtest_runs""",
    "audit": "SELECT source_id, from_status, to_status, actor_id, reason FROM kb_status_history",
    "tunes": """SELECT id, regime_key, regime_fingerprint, best_oos_score, best_oos_params, best_oos_run_id,
                       baseline_oos_score, timeframe FROM backtest_tunes""",
    "trials": """SELECT source_type, source_id, params_fingerprint, objective_score, sharpe_oos, trades_oos,
                        regime_oos - 'computed_at', regime_key, kb_status, archived_reason
                   FROM kb_trials""",
    "uplift": """SELECT scope, strategy_entity_id, regime_key, timeframe, objective, n, median
                   FROM kb_regime_uplift""",
}
"""What two ways of doing the same work must agree on: everything but the times at which it was done."""


class Host(NamedTuple):
    """Where processes run: how a command is started there, and its address."""

    prefix: tuple[str, ...]
    address: str


class Cluster(NamedTuple):
    """A scheduler's address and its workers, by name."""

    address: str
    workers: dict[str, "subprocess.Popen[bytes]"]


@contextmanager
def loopback(count: int) -> Iterator[list[Host]]:
    """Yield so many hosts that are all this one."""
    yield [Host((), "127.0.0.1")] * count


@contextmanager
def namespaces(count: int) -> Iterator[list[Host]]:
    """Yield so many hosts in network namespaces of their own, joined by a bridge in the first."""
    names = [f"kb{os.getpid()}-{number}" for number in range(count)]
    hosts = [Host(("ip", "netns", "exec", name), f"10.213.7.{at + 1}") for at, name in enumerate(names)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", "bridge", "type", "bridge")
        ip("-n", names[0], "addr", "add", f"{hosts[0].address}/24", "dev", "bridge")
        ip("-n", names[0], "link", "set", "bridge", "up")
        for number, name in enumerate(names[1:], 1):
            end = f"to{number}"
            ip("-n", names[0], "link", "add", end, "type", "veth", "peer", "name", "eth", "netns", name)
            ip("-n", names[0], "link", "set", end, "master", "bridge", "up")
            ip("-n", name, "addr", "add", f"{hosts[number].address}/24", "dev", "eth")
            ip("-n", name, "link", "set", "eth", "up")
        yield hosts
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def has_namespaces() -> bool:
    """Return whether this process may make network namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"kb{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made.returncode == 0


@contextmanager
def process(host: Host, environment: Environment, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command of Python on a host while the block runs."""
    started = subprocess.Popen(
        [*host.prefix, sys.executable, *command],
        env=dict(environment),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def free_port() -> int:
    """Return a port that nobody listens on, on the loopback address."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def relay(host: Host, environment: Environment, database_url: str) -> Iterator[Callable[[str], str]]:
    """Bring the server's socket to a host's address; yield what turns its URLs into those to use there."""
    target, port = parse_database_url(database_url), free_port()
    path = f"{target.host}/.s.PGSQL.{target.port or 5432}"
    arguments = f"{path!r}, {host.address!r}, {port}"
    listening = f"from scripts.machines import serve_relay; serve_relay({arguments})"
    with process(host, environment, "-c", listening):
        yield (
            lambda url: f"postgresql://{target.user}@{host.address}:{port}/{parse_database_url(url).database}"
        )


def serve_relay(path: str, address: str, port: int) -> None:
    """Hand connections to an address on to a socket in the file system, until the process ends."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    async def main() -> None:
        server = await asyncio.start_server(serve, address, port)
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def cluster(hosts: Sequence[Host], environment: Environment) -> Iterator[Cluster]:
    """Run a scheduler on the first host and a worker on each of the others, or two beside it."""
    port = free_port()
    address = f"tcp://{hosts[0].address}:{port}"
    with ExitStack() as stack:
        stack.enter_context(
            process(
                hosts[0],
                environment,
                *("-m", "distributed.cli.dask_scheduler", "--host", hosts[0].address),
                *("--port", str(port), "--no-dashboard", "--no-show"),
            )
        )
        workers = {
            name: stack.enter_context(
                process(
                    host,
                    environment,
                    *("-m", "distributed.cli.dask_worker", address, "--name", name, "--nthreads", "1"),
                    *("--host", host.address, "--no-nanny", "--no-dashboard"),
                    *("--preload", "kb_pipeline.definitions"),
                )
            )
            for name, host in zip("ab", hosts[1:3], strict=True)
        }
        # Where only one is there yet, it is given all lanes.
        waiting = f"import distributed; distributed.Client({address!r}).wait_for_workers(2, timeout=60)"
        there = subprocess.run(
            [*hosts[0].prefix, sys.executable, "-c", waiting], env=dict(environment), cwd=ROOT, check=False
        )
        if there.returncode:
            raise SystemExit("The workers did not come up.")
        yield Cluster(address, workers)


def make_database(server: str, name: str) -> str:
    """Return the URL of a new database with the demo history."""
    url = ensure_database(server, name)
    migrate(url)
    with connect(url) as connection:
        load_demo(connection, ROOT / "data" / "demo")
    return url


def environment_of(url: str, dagster_url: str, home: Path, **more: str) -> dict[str, str]:
    """Return an environment of Dagster over these databases that knows of no others."""
    home.mkdir(exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        settings.symlink_to(ROOT / "dagster.yaml")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KB_", "DAGSTER"))}
    return kept | {
        "KB_HOME": str(home),
        # Databases are made and compared by the superuser; the work is done as it is everywhere.
        "KB_DATABASE_URL": url.replace(f"//{embedded.SUPERUSER}@", f"//{embedded.APP}@"),
        "KB_DAGSTER_DATABASE_URL": dagster_url.replace("postgresql", "postgresql+psycopg2", 1),
        "DAGSTER_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        **more,
    }


def everything(host: Host, environment: Environment) -> "subprocess.Popen[str]":
    """Start the job `everything` on a host."""
    return subprocess.Popen(
        [
            *host.prefix,
            *(sys.executable, "-m", "dagster", "job", "execute", "-m", "kb_pipeline.definitions"),
            *("-j", "everything", "-c", str(ROOT / "examples" / "everything.yaml")),
        ],
        env=dict(environment),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def results(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that the backfills left in a database, in an order of its own."""
    with connect(url) as connection:
        return {name: sorted(connection.execute(text).fetchall(), key=repr) for name, text in RESULTS.items()}


class Parts(NamedTuple):
    """How many parts there are, how many are done, and how many by each process."""

    planned: int
    done: int
    of_process: dict[str, int]


def parts(url: str) -> Parts:
    """Return how far the parts of all plans in a database are."""
    with connect(url) as connection:
        rows = connection.execute("SELECT holder, done_at IS NOT NULL FROM kb_backfill_parts").fetchall()
    done = [str(holder) for holder, is_done in rows if is_done]
    return Parts(len(rows), len(done), {holder: done.count(holder) for holder in sorted(set(done))})


def kill_in_the_midst(url: str, workers: Mapping[str, "subprocess.Popen[bytes]"], seconds: float = 60) -> str:
    """Kill the first worker that holds a part after it has done some; return its name."""
    holders = {f"process {worker.pid} on {socket.gethostname()}": name for name, worker in workers.items()}
    deadline = time.monotonic() + seconds
    with connect(url) as connection:
        while time.monotonic() < deadline:
            row = connection.execute(
                "SELECT holder FROM kb_backfill_parts WHERE holder = ANY (%s) GROUP BY holder"
                " HAVING count(done_at) >= 3 AND count(*) > count(done_at) LIMIT 1",
                [list(holders)],
            ).fetchone()
            if row is not None:
                name = holders[row[0]]
                workers[name].send_signal(signal.SIGKILL)
                workers[name].wait()
                return name
            time.sleep(0.005)
    raise TimeoutError(f"none of {', '.join(holders)} was in the midst of its parts within {seconds} s")


def main() -> int:
    """Show it, and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part-rows", default="25", help="rows of a part")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="kbm", dir="/tmp"))
    kind = namespaces if has_namespaces() else loopback
    try:
        server = embedded.start(home, role=embedded.SUPERUSER)
        with kind(3) as hosts:
            sys.stdout.write(f"Three hosts, by {kind.__name__}: {', '.join(it.address for it in hosts)}\n")
            show(server, hosts, home, arguments.part_rows)
    finally:
        embedded.stop(home)
        shutil.rmtree(home)
    return 0


def show(server: str, hosts: Sequence[Host], home: Path, part_rows: str) -> None:
    """Do the same work in one process, on two workers, and on two of which one is killed; compare."""
    urls = {name: make_database(server, name) for name in ("alone", "two", "killed")}
    dagster_urls = {name: ensure_database(server, f"{name}_dagster") for name in urls}
    alone = environment_of(urls["alone"], dagster_urls["alone"], home / "alone")
    begin = time.perf_counter()
    finish(everything(Host((), ""), alone))
    sys.stdout.write(f"One process: {time.perf_counter() - begin:.1f} s, process start included\n")
    expected = results(urls["alone"])
    for name in ("two", "killed"):
        with relay(hosts[0], alone, server) as over_network:
            there = environment_of(
                over_network(urls[name]),
                over_network(dagster_urls[name]),
                home / name,
                KB_EXECUTOR="dask",
                KB_LANES="2",
                KB_PART_ROWS=part_rows,
            )
            with cluster(hosts, there) as running:
                begin = time.perf_counter()
                run = everything(hosts[0], there | {"KB_DASK_ADDRESS": running.address})
                if name == "killed":
                    killed = kill_in_the_midst(urls[name], running.workers)
                    sys.stdout.write(f"Worker {killed} killed while it held a part, after three others\n")
                finish(run)
                seconds = time.perf_counter() - begin
        seen = parts(urls[name])
        by_process = ", ".join(f"{count} by {holder}" for holder, count in seen.of_process.items())
        sys.stdout.write(f"Two workers: {seconds:.1f} s; {seen.done} of {seen.planned} parts: {by_process}\n")
        found = results(urls[name])
        for table, rows in expected.items():
            same = "identical" if rows == found[table] else "DIFFERENT"
            sys.stdout.write(f"  {table}: {len(rows)} rows, {same}\n")


def finish(run: "subprocess.Popen[str]") -> None:
    """Wait for a run and see that it succeeded."""
    said, _ = run.communicate(timeout=240)
    if run.returncode:
        raise SystemExit(f"The run failed:\n{said[-6000:]}")


if __name__ == "__main__":
    sys.exit(main())
