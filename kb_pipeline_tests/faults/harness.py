"""Start, stop, kill and wait for real `kb-pipeline` processes, and compare what they leave."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.invariants import breaches
from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime
from kb_pipeline.backfills.trials import TrialsRequest, ingest_trials
from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.conftest import as_app
from kb_pipeline_tests.faults import worker, world
from kb_pipeline_tests.faults.worker import Plan

BATCH_ROWS: Final = 10
PAGE_ROWS: Final = 40
LONG_S: Final = 20
"""Nothing here takes as long; whoever waits so long has found a hang."""

KINDS: Final = (BackfillKind.CANDIDACY, BackfillKind.REGIME, BackfillKind.ATTRIBUTION, BackfillKind.TRIALS)
CYCLES: Final = int(os.environ.get("FAULT_CYCLES") or 50)
"""Kills of each sort, shared by the kinds."""

_SMALL_PAGES: Final = {"kb_pipeline.backfills.engine.READ_PAGE_ROWS": PAGE_ROWS}

_SESSIONS: Final = (
    "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend'"
)

# Warm, so that a process costs 10 ms instead of a second; single-threaded, so that it may fork.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["kb_pipeline_tests.faults.warm"])


@dataclass
class Worker:
    """A process of `kb-pipeline` and the files it prints to."""

    process: ForkServerProcess
    said: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if there still is somebody to hear it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait_stopped(self) -> bool:
        """Wait until the process has stopped itself; False where it ended without."""
        deadline = time.monotonic() + LONG_S
        while self.process.is_alive():
            assert time.monotonic() < deadline, self.printed(".err")
            if _process_state(self.pid) == "T":
                return True
            time.sleep(0.001)
        return False

    def end(self, within_s: float = LONG_S) -> int:
        """Wait for the end; return the exit code, negative for a signal."""
        self.process.join(within_s)
        assert self.process.exitcode is not None, f"still running after {within_s} s: {self.printed('.err')}"
        assert "Traceback" not in self.printed(".err"), self.printed(".err")
        return self.process.exitcode

    def printed(self, suffix: str = ".out") -> str:
        """Return what the process has printed so far."""
        file = self.said.with_suffix(suffix)
        return file.read_text() if file.exists() else ""


def _process_state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@dataclass(frozen=True)
class Undisturbed:
    """What a backfill does when left alone: calls to the database, those of its writing thread, rows
    written, and what it leaves."""

    calls: int
    writer_calls: int
    written: int
    state: dict[str, Any]


@dataclass
class Scene:
    """One database with work in it, a session to look on, and how commands are started on it."""

    url: str
    connection: Connection
    directory: Path
    chance: random.Random
    others: list[Any] = field(repr=False)
    workers: list[Worker] = field(default_factory=list)

    def begin(self) -> None:
        """Put the database back to its beginning, and with it what the other workspace must keep."""
        world.restore(self.connection)
        self.others = world.everything(self.connection)

    def start(self, kind: BackfillKind, plan: Plan = Plan(), *options: object, **environment: str) -> Worker:  # noqa: B008 - frozen
        """Begin a backfill in small batches and pages."""
        return self.start_command(*command(kind, self.directory), *options, plan=plan, **environment)

    def start_command(self, *arguments: object, plan: Plan = Plan(), **environment: str) -> Worker:  # noqa: B008
        """Begin any command."""
        said = self.directory / f"worker{next(_numbers)}"
        plan = Plan(plan.call, plan.number, plan.after, plan.only_writer, {**_SMALL_PAGES, **plan.rules})
        process = _PROCESSES.Process(
            target=worker.run_command,
            args=(
                [str(it) for it in arguments],
                {**os.environ, "KB_DATABASE_URL": as_app(self.url), **environment},
                said,
                plan,
            ),
            daemon=True,
        )
        process.start()
        started = Worker(process, said)
        self.workers.append(started)
        return started

    def run(self, kind: BackfillKind, *options: object) -> Worker:
        """Run a backfill to its end, undisturbed."""
        done = self.start(kind, Plan(), *options)
        assert done.end() == 0, done.printed(".err") + done.printed()
        return done

    def written(self, kind: BackfillKind) -> int:
        """Return how many rows the ledger says were written, by all runs of this kind together."""
        row = self.connection.execute(
            "SELECT coalesce(sum(processed_count), 0) FROM kb_backfill_runs WHERE backfill_type = %s", [kind]
        ).fetchone()
        assert row is not None
        return int(row[0])

    def wait_alone(self) -> None:
        """Wait until the server has noticed that the workers are gone, and with them their locks."""
        wait_until(lambda: not self.sessions())

    def sessions(self) -> list[str]:
        """Return the states of the sessions that workers have in this database."""
        rows = self.connection.execute(f"SELECT coalesce(state, '') {_SESSIONS}")
        return [state for (state,) in rows]

    def session_pids(self) -> list[int]:
        """Return the server's processes that work for workers."""
        return [pid for (pid,) in self.connection.execute(f"SELECT pid {_SESSIONS}")]

    def somebody_waits_for(self, event_type: str) -> bool:
        """Tell whether a worker's session waits for a kind of event, as Postgres names it."""
        query = f"SELECT {_SESSIONS} AND wait_event_type = %s"
        return self.connection.execute(query, [event_type]).fetchone() is not None

    def end_sessions(self) -> None:
        """End the workers' sessions, as an administrator would."""
        self.connection.execute(f"SELECT pg_terminate_backend(pid) {_SESSIONS}")
        self.wait_alone()

    def left_to_do(self, kind: BackfillKind) -> int:
        """Return how many rows a dry run in this process would write."""
        of: dict[str, Any] = {"workspace_id": world.OURS, "limit": None}
        prices = {"ohlcv_file": self.directory / world.PRICES, "calendar": "24/7"}
        backfill, request = {
            BackfillKind.CANDIDACY: (backfill_candidacy, CandidacyRequest(**of)),
            BackfillKind.REGIME: (backfill_regime, RegimeRequest(**of, **prices)),
            BackfillKind.ATTRIBUTION: (backfill_attribution, AttributionRequest(**of)),
            BackfillKind.TRIALS: (ingest_trials, TrialsRequest(**of)),
        }[kind]
        report = backfill(self.connection, request, dry_run=True)  # type: ignore[operator]
        return report.updated + report.notices.get("archived", 0)

    def keeps_its_promises(self, batch_rows: int = BATCH_ROWS) -> None:
        """Hold every invariant against both workspaces, and the other one against any change at all."""
        assert breaches(self.connection, world.OURS, batch_rows=batch_rows) == {}
        assert world.everything(self.connection) == self.others

    def finishes(self, kind: BackfillKind, expected: Undisturbed, *, rows: int | None = None) -> None:
        """Run the backfill once more and hold what it leaves against a run that was left alone."""
        self.wait_alone()
        self.run(kind)
        self.keeps_its_promises()
        assert world.state(self.connection) == expected.state
        assert self.written(kind) == (expected.written if rows is None else rows)

    def close(self) -> None:
        """End whoever is left."""
        for it in self.workers:
            it.send(signal.SIGKILL)
            it.process.join()


def command(kind: BackfillKind, directory: Path) -> list[object]:
    """Return the command line of a backfill of our workspace."""
    prices = ("--ohlcv-file", directory / world.PRICES, "--calendar", "24/7")
    return [
        "ingest-trials" if kind == BackfillKind.TRIALS else f"backfill-{kind}",
        *("--workspace-id", world.OURS, "--batch-size", BATCH_ROWS, "--limit", 100_000),
        *(prices if kind == BackfillKind.REGIME else ()),
    ]


_numbers = count(1)


def wait_until(reached: Callable[[], bool], within_s: float = LONG_S) -> None:
    """Wait for something that others do."""
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline, f"nothing happened within {within_s} s"
        time.sleep(0.002)


@contextmanager
def scene(url: str, directory: Path, chance: random.Random) -> Iterator[Scene]:
    """Yield the scene of one fault; its workers end with it."""
    with connect(url) as connection:
        opened = Scene(url, connection, directory, chance, world.everything(connection))
        try:
            yield opened
        finally:
            opened.close()
