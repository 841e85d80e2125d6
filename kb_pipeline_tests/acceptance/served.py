"""The web page as `make ui` brings it up, over a database of its own, and questions put to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil

from kb_pipeline.storage.postgres import ensure_database

ROOT = Path(__file__).resolve().parents[2]


def dagster_environment(server: str, home: Path, database_url: str, dagster_database: str) -> dict[str, str]:
    """Return an environment that can reach nothing but the databases and directories named."""
    instance_url = ensure_database(server, dagster_database).replace("postgresql", "postgresql+psycopg2", 1)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KB_", "DAGSTER"))}
    with socket.create_server(("127.0.0.1", 0)) as free:
        # Left to look for one itself, it could find the same as that of tests in another process.
        port = free.getsockname()[1]
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "KB_UI_PORT": str(port),
        "KB_HOME": str(home),
        "KB_DATABASE_URL": database_url,
        "KB_DAGSTER_DATABASE_URL": instance_url,
    }


def start_serving(environment: dict[str, str]) -> "subprocess.Popen[str]":
    """Start what `make ui` runs."""
    command = [sys.executable, "-m", "kb_pipeline.orchestration.serve"]
    return subprocess.Popen(command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE)


def stop_serving(process: "subprocess.Popen[str]", number: signal.Signals, *, processes: int) -> None:
    """Stop it, and see that nothing of at least so many processes is left."""
    assert process.stdout is not None
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.stdout.close()
    assert process.wait(40) == 0
    assert len(started) >= processes
    assert [it for it in started if is_left(it)] == []


def is_left(process: psutil.Process) -> bool:
    """Tell whether a process runs; one that has ended may still wait for its parent to ask."""
    # One may end between the two questions.
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def serve(environment: dict[str, str]) -> Iterator[str]:
    """Run what `make ui` runs and yield the address it prints; stop it with Ctrl-C's signal."""
    process = start_serving(environment)
    assert process.stdout is not None
    try:
        address = next((line.strip() for line in process.stdout if "http://" in line), "")
        assert address, "the web page did not come up"
        yield address
    finally:
        # Dagster itself, the server of the code and its child, the page and the daemon.
        stop_serving(process, signal.SIGINT, processes=5)


def ask(address: str, query: str, **variables: Any) -> Any:
    """Return the data of a GraphQL query."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = Request(f"{address}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310 - loopback
    with urlopen(request, timeout=90) as answer:  # noqa: S310 - loopback
        said = json.load(answer)
    assert "errors" not in said, said["errors"]
    return said["data"]


def wait_until(holds: Callable[[], Any], what: str, seconds: float, *, every: float = 0.5) -> Any:
    """Return the first true answer; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := holds()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(every)
    return answer
