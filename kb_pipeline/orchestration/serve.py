"""Bring up the web page with all it needs, print its address, and stop cleanly: what `make ui` runs.

Database, tables and partitions first, then Dagster's webserver and daemon, on this machine's own
address only: the page has no login.
"""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final, TextIO

import dagster as dg

from kb_pipeline.errors import AlreadyRunningError, BadArgumentError, KbPipelineError
from kb_pipeline.orchestration.instance import HOME_VARIABLE, MODULE_VARIABLE, prepare_environment
from kb_pipeline.orchestration.resources import Database, Prices, sync_partitions
from kb_pipeline.rules import ExitCode
from kb_pipeline.storage.migrations import migrate
from kb_pipeline.storage.paths import kb_home, shipped
from kb_pipeline.storage.postgres import owner_database_url

HOST: Final = "127.0.0.1"
PORT_VARIABLE: Final = "KB_UI_PORT"
FIRST_PORT: Final = 3000
LAST_PORT: Final = 3099
HIGHEST_PORT: Final = 65535
START_TIMEOUT_SECONDS: Final = 120
STOP_TIMEOUT_SECONDS: Final = 20
LEFT_OVER_TIMEOUT_SECONDS: Final = 10
"""A run that is being ended rolls its batch back and says so within this; what hangs is killed."""


def candidate_ports() -> range:
    """Return KB_UI_PORT alone, else the ports from 3000 on.

    Raises:
        BadArgumentError: KB_UI_PORT is no port.
    """
    given = os.environ.get(PORT_VARIABLE, "").strip()
    if not given:
        return range(FIRST_PORT, LAST_PORT + 1)
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= HIGHEST_PORT:
        raise BadArgumentError(
            f"{PORT_VARIABLE} is {given!r}; it must be a whole number from 1 to {HIGHEST_PORT}. "
            f"Unset, the first free port from {FIRST_PORT} on is taken."
        )
    return range(int(given), int(given) + 1)


def free_port(ports: range) -> int:
    """Return the first of some ports that nobody listens on.

    Raises:
        KbPipelineError: All of them are taken.
    """
    for port in ports:
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, port))
                return port
    taken = f"Port {ports[0]} is" if len(ports) == 1 else f"All ports from {ports[0]} to {ports[-1]} are"
    raise KbPipelineError(f"{taken} taken, or not open to this user. Set {PORT_VARIABLE} to another one.")


@contextmanager
def only_one(home: Path) -> Iterator[TextIO]:
    """Hold the lock of a DAGSTER_HOME; yield the file, which whoever comes second reads.

    Two daemons on one instance would each run its sensors. The kernel releases the lock when the last process
    goes that has the file open, however it goes: this one, and the Dagster it started.

    Raises:
        AlreadyRunningError: Another process holds it.
    """
    with (home / "ui.lock").open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.seek(0)
            where = held.read().strip() or "an address that it has yet to print"
            raise AlreadyRunningError(f"The web page of {home} is already running at {where}.") from None
        held.truncate(0)
        yield held


def main() -> int:
    """Serve until Ctrl-C, SIGTERM or the terminal's end and return the process's exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup the terminal's end is to be ignored.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        sys.stdout.write("Bringing up the database, the web page and the daemon ...\n")
        sys.stdout.flush()
        ports = candidate_ports()
        with only_one(Path(prepare_environment()[HOME_VARIABLE])) as lock:
            migrate(owner_database_url())
            with dg.DagsterInstance.get() as instance:
                sync_partitions(instance, Database(), Prices(), remove=False)
            return _serve(free_port(ports), lock)
    except KbPipelineError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.DONE


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _serve(port: int, lock: TextIO) -> int:
    log_path = kb_home() / "dagster" / "ui.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(shipped("workspace.yaml"))]
    # Set for other commands, it would make this one refuse its -w.
    environment = {name: value for name, value in os.environ.items() if name != MODULE_VARIABLE}
    with log_path.open("ab") as log:
        # A session of its own, so that Ctrl-C reaches Dagster once and from here, and not each process.
        served = subprocess.Popen(  # noqa: S603 - our own interpreter
            [*command, "-h", HOST, "-p", str(port)],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            # What this process leaves behind when it is killed goes on being the only one.
            pass_fds=[lock.fileno()],
        )
        try:
            lock.write(f"http://{HOST}:{port} (process {served.pid})\n")
            lock.flush()
            _wait_until_it_answers(served, port)
            sys.stdout.write(f"\n  http://{HOST}:{port}\n\nLog: {log_path}. Stop with Ctrl-C.\n")
            sys.stdout.flush()
            return served.wait()
        finally:
            stop(served)


def _wait_until_it_answers(served: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while served.poll() is None and time.monotonic() < deadline:
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"http://{HOST}:{port}/server_info", timeout=5).close()
            return
        time.sleep(0.3)
    raise KbPipelineError(f"Dagster did not start. Its log is {kb_home() / 'dagster' / 'ui.log'}.")


def stop(served: "subprocess.Popen[bytes]") -> None:
    """Let Dagster stop its own processes, then end what is left of its group: runs, and their server."""
    try:
        served.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            served.wait(STOP_TIMEOUT_SECONDS)
        _signal_group(served, signal.SIGTERM)
        deadline = time.monotonic() + LEFT_OVER_TIMEOUT_SECONDS
        while _signal_group(served, 0) and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        # Here at once when Ctrl-C is pressed again. A server that waits for its run outlives the rest.
        _signal_group(served, signal.SIGKILL)
        served.wait()


def _signal_group(served: "subprocess.Popen[bytes]", number: int) -> bool:
    """Send a signal (0: none) to every process that Dagster started; return whether there is any."""
    try:
        os.killpg(served.pid, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
