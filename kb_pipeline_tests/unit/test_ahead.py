"""Working one step ahead: the same items in the same order, errors where they belong, no thread left."""

import sys
import threading
from collections.abc import Iterator

import pytest

from kb_pipeline.backfills.ahead import ahead


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_the_items_come_as_they_are_made() -> None:
    with ahead(iter(range(100))) as items:
        assert list(items) == list(range(100))


def test_an_error_comes_after_the_items_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise LookupError("the second")

    with ahead(failing()) as items:
        assert next(items) == 1
        with pytest.raises(LookupError, match="the second"):
            next(items)


def test_no_more_than_a_few_items_are_made_ahead() -> None:
    made: list[int] = []

    def counting() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with ahead(counting()) as items:
        assert next(items) == 0
    # one taken, one waiting, one in the maker's hand, one more while the block ends
    assert len(made) <= 4


def test_leaving_early_ends_the_thread_and_gives_the_interpreter_back() -> None:
    interval = sys.getswitchinterval()
    with ahead(iter(range(1_000_000))) as items:
        next(items)
        assert _threads() == ["read-ahead"]
    assert _threads() == []
    assert sys.getswitchinterval() == interval


def test_a_stop_ends_the_waiting_and_what_is_waited_for_is_broken_off() -> None:
    broken_off = threading.Event()

    def waiting() -> Iterator[int]:
        yield 1
        assert broken_off.wait(20)
        raise LookupError("broken off")

    with ahead(waiting(), stop=lambda: True, cancel=broken_off.set) as items:
        assert list(items) == [1]
    assert broken_off.is_set()
    assert _threads() == []
