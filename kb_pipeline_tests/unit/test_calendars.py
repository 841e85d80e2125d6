"""Expected bars come from calendars; sessions here are counted by hand from published holidays."""

import warnings
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import exchange_calendars
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb_pipeline.domain.calendars import CoverageIndex, market
from kb_pipeline.errors import CalendarError

NEW_YORK = ZoneInfo("America/New_York")


def ns(*texts: str, zone: str = "UTC") -> npt.NDArray[np.int64]:
    return pd.DatetimeIndex(texts, tz=zone).as_unit("ns").asi8


def every(step: str, start: str, end: str, zone: str = "UTC") -> npt.NDArray[np.int64]:
    return pd.date_range(start, end, freq=step, tz=zone, unit="ns").asi8


def counts(index: CoverageIndex, start: str, end: str, zone: str = "UTC") -> tuple[int, int]:
    present, expected = index.window_counts(ns(start, zone=zone), ns(end, zone=zone))
    return int(present[0]), int(expected[0])


def nothing(calendar: str, timeframe: str) -> CoverageIndex:
    return CoverageIndex(np.array([], dtype=np.int64), calendar=calendar, timeframe=timeframe)


# --- How many bars are expected ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("calendar", "timeframe", "start", "end", "expected"),
    [
        # Independence Day 2024 was a Thursday.
        ("XNYS", "1d", "2024-07-01", "2024-07-07", 4),
        ("XNYS", "1d", "2024-07-04", "2024-07-04", 0),
        # 252 sessions in 2024, of 23,400 seconds but for three half days.
        ("XNYS", "1d", "2024-01-01", "2024-12-31", 252),
        # A week without trading after 11 September 2001: 10 September, then the 17th.
        ("XNYS", "1d", "2001-09-10", "2001-09-17", 2),
        # 09:30 to 16:00 in New York: six hours and a half.
        ("XNYS", "1h", "2024-01-02", "2024-01-02T23:59", 7),
        ("XNYS", "30m", "2024-01-02", "2024-01-02T23:59", 13),
        ("XNYS", "4h", "2024-01-02", "2024-01-02T23:59", 2),
        ("XNYS", "1m", "2024-01-02", "2024-01-02T23:59", 390),
        # The day after Thanksgiving closes at 13:00.
        ("XNYS", "1h", "2024-11-29", "2024-11-29T23:59", 4),
        # Hong Kong rests from 12:00 to 13:00: 2.5 hours and 3.
        ("XHKG", "1h", "2024-01-02", "2024-01-02T23:59", 6),
        ("XHKG", "30m", "2024-01-02", "2024-01-02T23:59", 11),
        ("24/7", "1d", "2024-02-01", "2024-02-29", 29),
        ("24/7", "1h", "2024-02-28", "2024-02-29T23:59", 48),
        ("24/7", "1m", "2024-01-01", "2024-01-01", 1),
        # A week of the foreign exchange market is five times 24 hours, clock change or not.
        ("FX", "1h", "2024-01-07", "2024-01-13", 120),
        ("FX", "1h", "2024-03-10", "2024-03-16", 120),
        ("FX", "4h", "2024-11-03", "2024-11-09", 30),
        ("FX", "1d", "2024-01-07", "2024-01-13", 5),
        # Christmas 2017 was a Monday, New Year 2018 too.
        ("FX", "1h", "2017-12-24", "2017-12-30", 96),
        ("FX", "1d", "2017-12-24", "2018-01-06", 8),
    ],
)
def test_expected_bars_are_those_of_the_calendar(
    calendar: str, timeframe: str, start: str, end: str, expected: int
) -> None:
    assert counts(nothing(calendar, timeframe), start, end) == (0, expected)


def test_the_week_of_foreign_exchange_begins_and_ends_at_17_in_new_york() -> None:
    index = nothing("FX", "1h")
    for sunday in ("2024-01-07", "2024-07-07"):
        friday = (datetime.fromisoformat(sunday) + timedelta(days=5)).date()
        assert counts(index, f"{sunday} 16:59", f"{sunday} 17:00", "America/New_York") == (0, 1)
        assert counts(index, f"{friday} 16:00", f"{friday} 23:00", "America/New_York") == (0, 1)
        assert counts(index, f"{friday} 17:00", f"{friday} 23:00", "America/New_York") == (0, 0)


def test_christmas_of_foreign_exchange_runs_from_17_to_17() -> None:
    index = nothing("FX", "1h")
    assert counts(index, "2019-12-24 16:00", "2019-12-25 17:00", "America/New_York") == (0, 2)


def test_expected_bars_do_not_depend_on_the_bars_a_file_has() -> None:
    window = ("2024-01-01", "2024-03-31")
    whole = every("D", *window)
    for bars in (whole, whole[::7], whole[:1], whole[:0]):
        index = CoverageIndex(bars, calendar="XNYS", timeframe="1d")
        # 21 sessions in January, 20 in February, 20 in March.
        assert counts(index, *window)[1] == 61


# --- Which of them a file has ------------------------------------------------------------------


def hourly(*, first: str, others: str) -> npt.NDArray[np.int64]:
    """Return one session of New York, 2 January 2024: a first bar, then six an hour apart."""
    return np.concatenate(
        [
            ns(f"2024-01-02 {first}", zone="America/New_York"),
            every("h", f"2024-01-02 {others}", f"2024-01-02 15:{others[3:]}", "America/New_York"),
        ]
    )


@pytest.mark.parametrize(
    "bars",
    [
        hourly(first="09:30", others="10:30"),
        hourly(first="09:30", others="10:00"),
        hourly(first="09:00", others="10:00"),
    ],
    ids=["from the open", "on the clock, the first from the open", "on the clock"],
)
def test_a_full_session_is_covered_however_its_vendor_stamps_it(bars: npt.NDArray[np.int64]) -> None:
    index = CoverageIndex(bars, calendar="XNYS", timeframe="1h")
    assert counts(index, "2024-01-02", "2024-01-02T23:59") == (7, 7)
    assert index.missing_ranges(*ns("2024-01-02", "2024-01-02T23:59")) == []


def test_bars_outside_the_session_cover_nothing() -> None:
    early_and_late = every("h", "2024-01-02 04:30", "2024-01-02 08:30", "America/New_York")
    late = every("h", "2024-01-02 16:30", "2024-01-02 19:30", "America/New_York")
    index = CoverageIndex(np.concatenate([early_and_late, late]), calendar="XNYS", timeframe="1h")
    assert counts(index, "2024-01-02", "2024-01-02T23:59") == (0, 7)


def test_a_bar_after_the_close_does_not_stand_for_the_last_half_hour() -> None:
    bars = np.append(
        every("h", "2024-01-02 09:30", "2024-01-02 14:30", "America/New_York"),
        ns("2024-01-02 16:00", zone="America/New_York"),
    )
    index = CoverageIndex(bars, calendar="XNYS", timeframe="1h")
    assert counts(index, "2024-01-02", "2024-01-02T23:59") == (6, 7)


def test_a_slot_with_many_bars_counts_once() -> None:
    bars = every("min", "2024-01-02 10:30", "2024-01-02 11:29", "America/New_York")
    index = CoverageIndex(bars, calendar="XNYS", timeframe="1h")
    assert counts(index, "2024-01-02", "2024-01-02T23:59") == (1, 7)


@pytest.mark.parametrize(
    "first", ["2024-01-07 22:00", "2024-01-08 00:00"], ids=["from the open", "on the clock"]
)
def test_four_hours_of_foreign_exchange_count_from_the_open_or_by_the_clock(first: str) -> None:
    bars = every("4h", first, "2024-01-12 21:59")
    index = CoverageIndex(bars, calendar="FX", timeframe="4h")
    present, expected = counts(index, "2024-01-07", "2024-01-13")
    # By the clock, Sunday 20:00 to 24:00 is a slot too, and this file does not have it.
    assert (present, expected) == ((30, 30) if "22:00" in first else (30, 31))


@pytest.mark.parametrize(
    ("times", "zone", "calendar"),
    [
        (["2024-07-03", "2024-07-05", "2024-07-08"], "UTC", "XNYS"),
        (["2024-07-03", "2024-07-05", "2024-07-08"], "America/New_York", "XNYS"),
        (["2024-07-03 16:00", "2024-07-05 16:00", "2024-07-08 16:00"], "America/New_York", "XNYS"),
        (["2024-07-03 13:00", "2024-07-05 16:00", "2024-07-08 16:00"], "America/New_York", "XNYS"),
        (["2024-07-03", "2024-07-04", "2024-07-05", "2024-07-08"], "Europe/London", "XLON"),
        (["2024-07-03", "2024-07-04", "2024-07-05", "2024-07-08"], "Asia/Tokyo", "XTKS"),
        (["2024-07-03", "2024-07-04", "2024-07-05", "2024-07-08"], "UTC", "FX"),
    ],
)
def test_a_daily_bar_belongs_to_its_session_however_it_is_stamped(
    times: list[str], zone: str, calendar: str
) -> None:
    bars = ns(*times, zone=zone)
    index = CoverageIndex(bars, calendar=calendar, timeframe="1d")
    present, expected = index.window_counts(bars[:1], bars[-1:])
    assert (present[0], expected[0]) == (len(times), len(times))


def test_daily_bars_stamped_in_a_zone_with_clock_changes_keep_their_sessions() -> None:
    # Midnight in New York comes 23 hours after the one before when the clocks go forward.
    bars = every("D", "2024-01-01", "2024-12-31", "America/New_York")
    index = CoverageIndex(bars, calendar="XNYS", timeframe="1d")
    present, expected = index.window_counts(bars[:1], bars[-1:])
    assert (present[0], expected[0]) == (252, 252)
    always = CoverageIndex(bars, calendar="24/7", timeframe="1d", timezone="America/New_York")
    assert [int(count[0]) for count in always.window_counts(bars[:1], bars[-1:])] == [366, 366]


def test_a_window_compares_with_the_stamps_the_file_uses() -> None:
    closes = ns("2024-07-01 16:00", "2024-07-02 16:00", "2024-07-03 16:00", zone="America/New_York")
    index = CoverageIndex(closes, calendar="XNYS", timeframe="1d")
    # Until 15:59 of 3 July the third bar has not been printed.
    assert counts(index, "2024-07-01 16:00", "2024-07-03 15:59", "America/New_York") == (2, 2)


def test_a_symbol_may_name_the_zone_of_its_dates() -> None:
    # 22:00 UTC is the next day in Tokyo.
    bars = ns("2024-01-02T22:00")
    tokyo = CoverageIndex(bars, calendar="24/7", timeframe="1d", timezone="Asia/Tokyo")
    assert counts(tokyo, "2024-01-02T22:00", "2024-01-02T22:00") == (1, 1)
    gap = tokyo.missing_ranges(*ns("2024-01-01T22:00", "2024-01-03T22:00"))
    assert [hole.first.day for hole in gap] == [1, 3]


# --- Windows and holes -------------------------------------------------------------------------


def test_holes_are_told_in_runs_with_their_times() -> None:
    # From Monday 1 July to Friday 12 July 2024: nine sessions, of which the file has five.
    bars = ns("2024-07-01", "2024-07-05", "2024-07-08", "2024-07-09", "2024-07-12")
    index = CoverageIndex(bars, calendar="XNYS", timeframe="1d")
    holes = index.missing_ranges(*ns("2024-07-01", "2024-07-12"))
    assert [(hole.first.day, hole.last.day, hole.bars) for hole in holes] == [(2, 3, 2), (10, 11, 2)]
    assert holes[0].first == datetime(2024, 7, 2, tzinfo=UTC)


def test_a_window_beyond_the_file_misses_the_bars_out_there() -> None:
    index = CoverageIndex(every("D", "2024-01-01", "2024-01-10"), calendar="24/7", timeframe="1d")
    assert counts(index, "2023-12-30", "2024-01-12") == (10, 14)
    assert [hole.bars for hole in index.missing_ranges(*ns("2023-12-30", "2024-01-12"))] == [2, 2]
    assert counts(index, "2025-01-01", "2025-01-31") == (0, 31)


def test_a_window_that_ends_before_it_starts_expects_nothing() -> None:
    index = nothing("24/7", "1d")
    assert counts(index, "2024-01-02", "2024-01-01") == (0, 0)
    assert index.missing_ranges(*ns("2024-01-02", "2024-01-01")) == []


@pytest.mark.parametrize("calendar", ["XNYS", "24/7", "FX"])
def test_years_no_calendar_knows_are_never_covered(calendar: str) -> None:
    limits = np.iinfo(np.int64)
    index = CoverageIndex(every("D", "2024-01-01", "2024-12-31"), calendar=calendar, timeframe="1d")
    present, expected = index.window_counts(np.array([limits.min]), np.array([limits.max]))
    # From 1677 to 2262 there are 213,503 days; in the years it knows, New York trades on 25,423.
    assert 250 <= present[0] <= 366
    assert expected[0] > 180_000
    assert sum(hole.bars for hole in index.missing_ranges(limits.min, limits.max)) == expected[0] - present[0]
    assert index.window_counts(np.array([limits.min + 1]), np.array([limits.min + 1]))[1][0] == 1


def test_an_unknown_calendar_or_timeframe_is_refused_by_name() -> None:
    with pytest.raises(CalendarError, match="'NOWHERE', needed 24/7, FX or"):
        nothing("NOWHERE", "1d")
    with pytest.raises(CalendarError, match="'2h', needed one of 1m"):
        nothing("XNYS", "2h")


def test_a_calendar_that_its_library_cannot_build_is_refused() -> None:
    with pytest.raises(CalendarError, match="'XTAE' cannot be built"):
        market("XTAE")


def test_calendars_reach_back_before_the_year_2000() -> None:
    # New York held 254 sessions in 1970. 30 January 1998 was a Friday; Tokyo's calendar begins in 1997.
    assert counts(nothing("XNYS", "1d"), "1970-01-01", "1970-12-31") == (0, 254)
    assert counts(nothing("XTKS", "1d"), "1998-01-26", "1998-01-30") == (0, 5)


def test_the_years_before_its_calendar_knows_holidays_count_every_day() -> None:
    assert counts(nothing("XNYS", "1d"), "1962-01-01", "1962-12-31") == (0, 365)


# --- Held against the library's own count ------------------------------------------------------


def half_hours_of_2023() -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.Pandas4Warning)
        sessions = exchange_calendars.get_calendar("XNYS", start="2023-01-01", end="2023-12-31").schedule
    half_hour = pd.Timedelta("30min")
    return [
        time.as_unit("ns").value
        for opens, closes in zip(sessions["open"], sessions["close"], strict=True)
        for time in pd.date_range(opens, closes - half_hour, freq=half_hour)
    ]


HALF_HOURS = half_hours_of_2023()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_counts_are_those_of_sets_of_slots(data: st.DataObject) -> None:
    slots = HALF_HOURS
    runs = data.draw(st.lists(st.tuples(st.integers(0, len(slots)), st.integers(0, 900)), max_size=5))
    have = {time for at, length in runs for time in slots[at : at + length]}
    index = CoverageIndex(np.array(sorted(have), dtype=np.int64), calendar="XNYS", timeframe="30m")
    moments = st.integers(slots[0], slots[-1]) | st.sampled_from(slots)
    start, end = data.draw(moments), data.draw(moments)
    wanted = [time for time in slots if start <= time <= end]
    present, expected = index.window_counts(np.array([start]), np.array([end]))
    assert (present[0], expected[0]) == (sum(time in have for time in wanted), len(wanted))
    missing = [time for time in wanted if time not in have]
    holes = index.missing_ranges(start, end)
    assert sum(hole.bars for hole in holes) == len(missing)
    edges = {int(edge.timestamp()) * 10**9 for hole in holes for edge in (hole.first, hole.last)}
    assert edges <= set(missing)


def test_a_million_windows_are_counted_as_one_by_one() -> None:
    bars = every("h", "2024-01-01", "2024-12-31")[::3]
    index = CoverageIndex(bars, calendar="24/7", timeframe="1h")
    starts = np.random.default_rng(7).choice(bars, 1_000_000)
    present, expected = index.window_counts(starts, starts + 6 * 3_600 * 10**9)
    # Every third hour is there: seven slots an inclusive window of six hours, three of them present.
    assert set(expected.tolist()) == {7}
    assert set(present.tolist()) <= {1, 2, 3}
