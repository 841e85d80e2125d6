"""How much memory each process has that stays: `python -m benchmarks.bench_memory`.

The web page, the daemon, the code servers, the embedded Postgres and a Dask worker, at rest after two
minutes' worth of ticks or less. PSS shares what processes have in common among them, so it may be added
up; the resident size of one Postgres process counts shared memory again and again. Commands, which come
and go, are in `bench_start`.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.dagster_setup import (
    ROOT,
    ask,
    drop_databases,
    environment_of,
    make_database,
    make_prices,
    served,
)
from kb_pipeline.storage.paths import kb_home

_KINDS: Final = {
    "dagster_webserver": "webserver",
    "dagster-webserver": "webserver",
    "dagster._daemon": "daemon",
    "dagster-daemon": "daemon",
    "api grpc": "code server",
    "dask_worker": "Dask worker",
    "dask_scheduler": "Dask scheduler",
    "kb_pipeline.orchestration.serve": "make ui itself",
    "postgres": "embedded Postgres",
}


class Memory(NamedTuple):
    """Resident and proportional size, MB."""

    resident: float
    proportional: float


def memory(pid: int) -> Memory:
    """Return the memory of a process now."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    size = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return Memory(size["Rss"], size["Pss"])


def descendants(pid: int) -> Iterator[int]:
    """Yield a process and all that it and its children started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from descendants(int(child))


def kind(pid: int) -> str:
    """Return what a process is, by its command line."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return next((name for sign, name in _KINDS.items() if sign in command), command[:60])


def report(pids: Iterator[int]) -> None:
    """Print processes by kind: how many, the largest resident size, and the sum of the shares."""
    found: dict[str, list[Memory]] = defaultdict(list)
    for pid in pids:
        found[kind(pid)].append(memory(pid))
    for name, sizes in found.items():
        largest, together = max(it.resident for it in sizes), sum(it.proportional for it in sizes)
        print(f"{name}: {len(sizes)}, the largest {largest:.0f} MB resident, together {together:.0f} MB")


def main() -> None:
    """Start everything, ask the page twice, and print a line for each kind of process."""
    with tempfile.TemporaryDirectory() as directory:
        prices, home = Path(directory) / "data", Path(directory) / "home"
        make_prices(prices, symbols=20, days=400)
        home.mkdir()
        (home / "dagster.yaml").symlink_to(ROOT / "dagster.yaml")
        url = make_database("bench_memory", workspaces=1, symbols=20, runs=10)
        environment = environment_of(url, prices, home)
        dask = [
            subprocess.Popen([sys.executable, "-m", f"distributed.cli.{name}", *given], cwd=directory)
            for name, given in (
                ("dask_scheduler", ["--host", "127.0.0.1", "--port", "8799", "--no-dashboard"]),
                ("dask_worker", ["tcp://127.0.0.1:8799", "--nthreads", "1", "--no-dashboard", "--no-nanny"]),
            )
        ]
        try:
            with served(environment) as address:
                ask(address, "{ assetNodes { assetKey { path } } }")
                time.sleep(60)
                ask(address, "{ assetNodes { assetKey { path } } }")
                report(descendants(os.getpid()))
                postmaster = int((kb_home() / "postgres" / "postmaster.pid").read_text().split()[0])
                report(descendants(postmaster))
        finally:
            for process in reversed(dask):  # the worker before its scheduler
                process.terminate()
                process.wait(30)
            drop_databases()


if __name__ == "__main__":
    main()
