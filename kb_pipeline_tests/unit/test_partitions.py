"""Which partitions there should be, and which names cannot be keys."""

import pytest

from kb_pipeline.orchestration.partitions import is_usable_key, pair_key, partition_changes, split_pair


def test_new_names_are_added_and_gone_ones_removed() -> None:
    assert partition_changes(["b", "c"], {"a", "b"}) == (["c"], ["a"], [])


def test_finding_nothing_removes_nothing() -> None:
    assert partition_changes([], {"a", "b"}) == ([], [], [])


def test_a_name_that_dagster_would_cut_apart_is_refused_and_not_added() -> None:
    assert partition_changes(["good", "a|b", "a...b"], set()) == (["good"], [], ["a...b", "a|b"])


class _ComparedName(str):
    """Counts how often names are compared for being the same."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        _ComparedName.compared += 1
        return str.__eq__(self, str(other))

    __hash__ = str.__hash__


def test_each_name_is_compared_with_a_few_and_not_with_all() -> None:
    names = [_ComparedName(f"S{number}") for number in range(1_000)]
    registered = [_ComparedName(name) for name in names]
    _ComparedName.compared = 0
    assert partition_changes(names, registered) == ([], [], [])
    # A look-up is one comparison or a few; compared with all it would be half a million.
    assert _ComparedName.compared <= 5 * len(names)


@pytest.mark.parametrize("name", ["BRK.B", "BTC/USD", "^GSPC", "EURUSD=X", "ÄÖ", "my workspace"])
def test_symbols_as_people_write_them_are_keys(name: str) -> None:
    assert is_usable_key(name)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a|b", "a...b"])
def test_names_without_text_or_with_separators_are_not(name: str) -> None:
    assert not is_usable_key(name)


def test_a_pair_is_read_as_it_was_written() -> None:
    assert pair_key("demo", "AAPL") == "AAPL|demo"
    assert split_pair("AAPL|demo") == ("demo", "AAPL")
