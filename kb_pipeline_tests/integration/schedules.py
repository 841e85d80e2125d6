"""Two sessions in a fixed order: what another session does, and at which step of a backfill it does it."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kb_pipeline.storage.postgres import Connection, connect

Act = Callable[[Connection], None]

WAIT_S: Final = 10


@dataclass
class Schedule:
    """The steps of one backfill at which the other session acts; each is heard once."""

    url: str
    before_read: Act | None = None
    before_write: Act | None = None
    while_writing: Act | None = None
    after_write: Act | None = None
    rolls_back: bool = False
    threads: list[threading.Thread] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def around(self, read: Any, write: Any) -> tuple[Any, Any]:
        """Return the read and the write of a table's module with the other session's acts around them."""

        def reading(*arguments: Any, **options: Any) -> Any:
            self._take("before_read")
            return read(*arguments, **options)

        def writing(*arguments: Any, **options: Any) -> Any:
            self._take("before_write")
            if self.while_writing:
                act, self.while_writing = self.while_writing, None
                self._hold(act)
            written = write(*arguments, **options)
            if self.after_write:
                act, self.after_write = self.after_write, None
                self._queue_up(act)
            return written

        return reading, writing

    def _take(self, step: str) -> None:
        act = getattr(self, step)
        if act:
            setattr(self, step, None)
            with connect(self.url) as other:
                act(other)

    def _hold(self, act: Act) -> None:
        """Act in a transaction that ends once somebody waits for it."""
        holds = threading.Event()

        def hold() -> None:
            with (
                connect(self.url) as looking_on,
                connect(self.url) as other,
                other.transaction(force_rollback=self.rolls_back),
            ):
                act(other)
                holds.set()
                _wait_until_waited_for(looking_on, other.info.backend_pid)

        self._start(hold)
        assert holds.wait(WAIT_S)

    def _queue_up(self, act: Act) -> None:
        """Act in a session that waits for ours, and come back when it does."""
        with connect(self.url) as looking_on:
            pids: list[int] = []

            def queue_up() -> None:
                with connect(self.url) as other:
                    pids.append(other.info.backend_pid)
                    act(other)

            self._start(queue_up)
            _wait_until(lambda: bool(pids) and _blockers(looking_on, pids[0]) != [])

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - shown where the schedule ends
                self.errors.append(error)

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def end(self) -> None:
        """Wait for the other sessions; every step must have come."""
        for thread in self.threads:
            thread.join(WAIT_S)
        assert self.errors == []
        left = [self.before_read, self.before_write, self.while_writing, self.after_write]
        assert left == [None] * 4, "a step of the schedule never came"


def statements(*texts: str, **parameters: Any) -> Act:
    """Return the act of running statements one after the other."""

    def run(connection: Connection) -> None:
        for text in texts:
            connection.execute(text, parameters)  # type: ignore[call-overload]

    return run


def _blockers(connection: Connection, pid: int) -> Sequence[int]:
    row = connection.execute("SELECT pg_blocking_pids(%s)", [pid]).fetchone()
    return row[0] if row else []


def _wait_until_waited_for(connection: Connection, pid: int) -> None:
    query = "SELECT FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
    _wait_until(lambda: connection.execute(query, [pid]).fetchone() is not None)


def _wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < deadline, "the schedule came to a standstill"
        time.sleep(0.002)
