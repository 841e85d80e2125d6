"""Do the work of an iterator one step ahead, in a thread of its own.

While a batch is being written the server is busy and this process waits; the next page is read and
decided meanwhile, on a second connection. Nothing here knows what a page is.
"""

import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

T = TypeVar("T")

_STEPS_AHEAD: Final = 1
"""Finished items held: one is enough to keep both sides busy, and bounds the memory."""

_POLL_S: Final = 0.1

_SWITCH_INTERVAL_S: Final = 0.0005
"""How long the thread ahead may keep the interpreter while the writer has an answer to pick up. With
Python's own 5 ms, small batches waited for it most of their time: 122 microseconds a row against 67."""


class _End:
    """What the thread puts last: the error it ended with, None where it came to its end."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


@contextmanager
def ahead(
    items: Iterator[T],
    *,
    stop: Callable[[], object] = lambda: False,
    cancel: Callable[[], None] = lambda: None,
) -> Iterator[Iterator[T]]:
    """Yield an iterator over `items`, which are made in a thread; leaving the block ends the thread.

    An error of the source is raised where its next item would have come. While an item is waited for,
    the iterator ends early if `stop` says so. `cancel` breaks off what the thread is waiting for.
    """
    done: queue.Queue[T | _End] = queue.Queue(_STEPS_AHEAD)
    left = threading.Event()

    def put(item: T | _End) -> None:
        while not left.is_set():
            with suppress(queue.Full):
                done.put(item, timeout=_POLL_S)
                break

    def work() -> None:
        error = None
        try:
            for item in items:
                put(item)
                if left.is_set():
                    return
        except BaseException as raised:  # noqa: BLE001 - raised again in the thread that asks
            error = raised
        put(_End(error))

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    thread.start()
    try:
        yield _taken(done, stop)
    finally:
        left.set()
        thread.join(_POLL_S)
        while thread.is_alive():
            cancel()
            thread.join(_POLL_S)
        sys.setswitchinterval(interval)


def _taken(done: "queue.Queue[T | _End]", stop: Callable[[], object]) -> Iterator[T]:
    while True:
        try:
            item = done.get(timeout=_POLL_S)
        except queue.Empty:
            if stop():
                return
            continue
        if not isinstance(item, _End):
            yield item
        elif item.error is not None:
            raise item.error
        else:
            return
