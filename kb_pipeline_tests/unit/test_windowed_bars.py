"""Where windows lie in a series of bars, and whether what lies there suffices."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from kb_pipeline.domain.calendars import CoverageIndex
from kb_pipeline.domain.windowed_bars import NS_PER_DAY, CheckedWindows, WindowedBars
from kb_pipeline.domain.windows import TimeWindow

FIRST = datetime(2020, 1, 1, tzinfo=UTC)


def _bars(days: Any, min_coverage: float = 0.9) -> WindowedBars:
    """Return daily bars of a market that never closes, given as days since 2020-01-01."""
    first_ns = int(FIRST.timestamp()) * 10**9
    times_ns = first_ns + np.array(list(days), dtype=np.int64) * NS_PER_DAY
    index = CoverageIndex(times_ns, calendar="24/7", timeframe="1d", timezone="UTC")
    return WindowedBars(times_ns, index, min_coverage)


def _window(first: int, last: int, oos_ratio: float | None = None) -> TimeWindow:
    """Return the window of these days, the last one whole."""
    start = int((FIRST + timedelta(days=first)).timestamp()) * 10**9
    return TimeWindow(start, start + (last - first + 1) * NS_PER_DAY - 1, oos_ratio)


def _span(checked: CheckedWindows, window: int = 0) -> tuple[int, int]:
    return int(checked.begins[window]), int(checked.ends[window])


def test_both_ends_of_a_window_belong_to_it() -> None:
    checked = _bars(range(100)).check([_window(10, 69), _window(0, 99), _window(99, 99)])
    assert [_span(checked, window) for window in range(3)] == [(10, 70), (0, 100), (99, 100)]
    assert (checked.present.tolist(), checked.expected.tolist()) == ([60, 100, 1], [60, 100, 1])
    assert checked.covered.tolist() == [True, True, False]


def test_an_instant_at_a_bar_holds_that_bar_at_either_end() -> None:
    bounds = _window(10, 69)
    exact = TimeWindow(bounds.start_ns, bounds.end_ns + 1)  # the instant of day 70's bar
    assert _span(_bars(range(100)).check([exact])) == (10, 71)
    late = TimeWindow(bounds.start_ns + 1, bounds.end_ns)
    assert _span(_bars(range(100)).check([late])) == (11, 70)


@pytest.mark.parametrize(
    ("bars", "ratio", "cut"),
    [
        (200, 0.3, 140),
        (201, 0.3, 140),  # floor(140.7)
        (366, 0.3, 256),  # floor(256.2)
        (101, 0.5, 50),  # floor(50.5)
        (60, 0.01, 59),  # floor(59.4): one bar is out of sample
    ],
)
def test_a_share_is_cut_at_the_floor_of_the_rest(bars: int, ratio: float, cut: int) -> None:
    windowed, window = _bars(range(400)), _window(5, 4 + bars, ratio)
    out_of_sample, in_sample = windowed.check([window]), windowed.check([window], in_sample=True)
    assert _span(out_of_sample) == (5 + cut, 5 + bars)
    assert _span(in_sample) == (5, 5 + cut)
    assert (out_of_sample.expected[0], in_sample.expected[0]) == (bars - cut, cut)


def test_a_share_of_a_range_whose_front_is_missing_is_not_the_run_s_own_window() -> None:
    # days 0 to 59 are missing and 60 to 199 there: the last half of these 140 bars begins on day 130,
    # while the run's own last half began on day 100
    checked = _bars(range(60, 200)).check([_window(0, 199, 0.5)])
    assert (_span(checked), checked.present[0], checked.expected[0]) == ((70, 140), 70, 70)
    assert not checked.covered[0]


def test_a_share_of_a_range_that_is_nearly_all_there_is_used() -> None:
    # 190 of 200 days, 95 %
    assert _bars(range(10, 200)).check([_window(0, 199, 0.5)]).covered[0]


def test_windows_with_and_without_a_share_do_not_disturb_each_other() -> None:
    checked = _bars(range(300)).check([_window(0, 99, 0.5), _window(0, 99), _window(100, 299, 0.25)])
    assert [_span(checked, window) for window in range(3)] == [(50, 100), (0, 100), (250, 300)]


def test_a_window_beside_the_bars_is_empty_and_not_covered() -> None:
    windows = [_window(-90, -1), _window(100, 189), _window(100, 189, 0.3)]
    for in_sample in (False, True):
        checked = _bars(range(100)).check(windows, in_sample=in_sample)
        assert (checked.ends - checked.begins).tolist() == [0, 0, 0]
        assert checked.covered.tolist() == [False, False, False]


def test_no_windows_have_no_answers() -> None:
    assert _bars(range(100)).check([]).covered.tolist() == []


@pytest.mark.parametrize(("bars", "covered"), [(49, False), (50, True)])
def test_a_snapshot_needs_fifty_bars_however_complete_they_are(bars: int, covered: bool) -> None:
    assert _bars(range(100), min_coverage=0.0).check([_window(0, bars - 1)]).covered[0] == covered


@pytest.mark.parametrize("percent", range(50, 101))
def test_as_many_bars_as_the_minimum_asks_for_suffice(percent: int) -> None:
    """In floats 55 of 100 are fewer than 0.55 * 100."""
    window = [_window(0, 99)]
    assert _bars([*range(percent - 1), 99], percent / 100).check(window).covered[0]
    assert percent == 50 or not _bars([*range(percent - 2), 99], percent / 100).check(window).covered[0]


def test_a_thin_window_is_described_by_its_days_and_counts() -> None:
    checked = _bars([*range(40), *range(60, 100)]).check([_window(0, 99), _window(50, 119)])
    assert checked.describe(0) == (
        "window 2020-01-01..2020-04-09: 80 bars, 80 of 100 expected; 50 bars and 90% needed"
    )
    assert checked.describe(1) == (
        "window 2020-02-20..2020-04-29: 40 bars, 40 of 70 expected; 50 bars and 90% needed"
    )
