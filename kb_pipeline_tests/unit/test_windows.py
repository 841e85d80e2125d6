"""A run's own window: which source wins, what a bound means, what cannot be read."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from kb_pipeline.domain.windows import RunWindows, TimeWindow, run_windows
from kb_pipeline.rules import SkipReason


def _ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


def _window(meta: dict[str, Any], params: dict[str, Any] | None = None) -> TimeWindow:
    found = run_windows(meta, params or {})
    assert isinstance(found, RunWindows)
    return found.out_of_sample


SOURCES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"oos_start": "2021-01-01", "oos_end": "2021-12-31"}, {}),
    ({"oos": {"start": "2022-01-01", "end": "2022-12-31"}}, {}),
    ({}, {"oos_start": "2023-01-01", "oos_end": "2023-12-31"}),
    ({"date_min": "2024-01-01", "date_max": "2024-12-31"}, {}),
]


@pytest.mark.parametrize("first", range(len(SOURCES)))
def test_the_first_source_that_is_present_wins(first: int) -> None:
    meta: dict[str, Any] = {}
    params: dict[str, Any] = {}
    for of_meta, of_params in SOURCES[first:]:
        meta |= of_meta
        params |= of_params
    assert _window(meta, params).start_ns == _ns(f"202{first + 1}-01-01")


def test_a_bare_end_date_covers_its_whole_day() -> None:
    window = _window({"oos_start": "2021-01-01", "oos_end": "2021-01-02"})
    assert (window.start_ns, window.end_ns) == (_ns("2021-01-01"), _ns("2021-01-03") - 1)


@pytest.mark.parametrize("compact", ["20210102", "2020W536", "2020-W53-6"])
def test_a_compact_date_is_a_day_too(compact: str) -> None:
    window = _window({"oos_start": "2021-01-01", "oos_end": compact})
    assert window.end_ns == _ns("2021-01-03") - 1


def test_a_bare_date_means_a_day_of_the_given_zone() -> None:
    meta = {"oos_start": "2021-01-01", "oos_end": "2021-01-01"}
    found = run_windows(meta, {}, day_zone=ZoneInfo("America/New_York"))
    assert isinstance(found, RunWindows)
    # New York is five hours behind UTC in January
    assert found.out_of_sample == TimeWindow(_ns("2021-01-01T05:00"), _ns("2021-01-02T05:00") - 1)


def test_times_with_an_offset_are_instants_and_without_one_utc() -> None:
    window = _window({"oos_start": "2021-01-01T00:00:00+02:00", "oos_end": "2021-01-01T12:00:00"})
    assert (window.start_ns, window.end_ns) == (_ns("2020-12-31T22:00"), _ns("2021-01-01T12:00"))


@pytest.mark.parametrize("where", ["dataset_meta", "params"])
def test_an_out_of_sample_share_splits_the_range(where: str) -> None:
    meta: dict[str, Any] = {"date_min": "2021-01-01", "date_max": "2021-12-31"}
    params: dict[str, Any] = {}
    (meta if where == "dataset_meta" else params)["oos_ratio"] = 0.3
    assert _window(meta, params).oos_ratio == 0.3


@pytest.mark.parametrize("ratio", [0, -0.1, 0.51, 1, 2])
def test_a_share_outside_zero_to_one_half_is_no_split(ratio: float) -> None:
    window = _window({"date_min": "2021-01-01", "date_max": "2021-12-31", "oos_ratio": ratio})
    assert window.oos_ratio is None


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"ref": "abc", "bar_count": 100},
        {"oos_ratio": 0.3},
        {"oos_ratio": "a third"},
        {"started_at": "2021-01-01", "completed_at": "2021-01-02"},
        {"oos_start": None, "oos_end": None},
    ],
)
def test_a_run_without_market_dates_has_no_window(meta: dict[str, Any]) -> None:
    assert run_windows(meta, {}) == SkipReason.MISSING_DATE_RANGE


@pytest.mark.parametrize(
    "meta",
    [
        {"oos_start": "2021-12-31", "oos_end": "2021-01-01"},
        {"oos_start": "2021-01-01"},
        {"oos_end": "2021-01-01"},
        {"oos_start": "yesterday", "oos_end": "today"},
        {"oos_start": "01/02/2021", "oos_end": "2021-03-01"},
        {"oos_start": "2021-02-30", "oos_end": "2021-03-01"},
        {"oos_start": 1609459200, "oos_end": 1612137600},
        {"oos_start": ["2021-01-01"], "oos_end": "2021-03-01"},
        {"oos_start": "", "oos_end": ""},
        {"date_min": "2021-01-01", "date_max": "2021-12-31", "oos_ratio": "0.3"},
        {"date_min": "2021-01-01", "date_max": "2021-12-31", "oos_ratio": True},
        {"date_min": "2021-01-01", "date_max": "2021-12-31", "oos_ratio": 10**400},
    ],
)
def test_a_window_that_cannot_be_read_is_named_so(meta: dict[str, Any]) -> None:
    assert run_windows(meta, {}) == SkipReason.INVALID_DATE_RANGE


def test_dates_at_the_ends_of_the_calendar_are_moved_to_what_nanoseconds_reach() -> None:
    window = _window({"oos_start": "0001-01-01", "oos_end": "9999-12-30"})
    # the end is the last nanosecond of its day, one before the edge
    assert (window.start_ns, window.end_ns) == (-(2**63 - 1), 2**63 - 2)


def test_an_in_sample_window_is_found_beside_the_other() -> None:
    meta = {"oos_start": "2021-01-01", "oos_end": "2021-12-31"}
    found = run_windows({**meta, "is": {"start": "2020-01-01", "end": "2020-12-31"}}, {})
    assert isinstance(found, RunWindows)
    assert found.in_sample == TimeWindow(_ns("2020-01-01"), _ns("2021-01-01") - 1)


def test_an_unreadable_in_sample_window_does_not_spoil_the_other() -> None:
    meta = {"oos_start": "2021-01-01", "oos_end": "2021-12-31", "is_start": "soon", "is_end": "later"}
    found = run_windows(meta, {})
    assert isinstance(found, RunWindows)
    assert found.in_sample is None
