"""Say which bars a market should have printed, and which of them a file holds.

Holds the trading calendars and the coverage of windows. Expected bars come from the calendar and
never from the data; the data only says how its vendor stamps them. Reading the file is the work of
`storage.ohlcv_files`; what too low a coverage means is decided by the backfills.

A bar is stamped at its beginning. Three kinds of calendar exist: an exchange known to
exchange_calendars (`XNYS`), `24/7`, and `FX`, whose week runs from Sunday 17:00 to Friday 17:00 in
New York and whose trading days 25 December and 1 January are closed.
"""

import warnings
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from kb_pipeline import rules
from kb_pipeline.errors import CalendarError

Times = npt.NDArray[np.int64]
"""UTC epoch nanoseconds."""

ALWAYS_OPEN: Final = "24/7"
FOREIGN_EXCHANGE: Final = "FX"

_DAY_NS: Final = 86_400_000_000_000
_EARLIEST_NS: Final = int(np.iinfo(np.int64).min) + 1
_FX_ROLLOVER_NS: Final = 17 * 3_600_000_000_000
"""A trading day of the foreign exchange market ends at 17:00 in New York, the close of its banks."""


class MissingRange(NamedTuple):
    """Consecutive expected bars that the file lacks; `first` and `last` are their UTC times."""

    first: datetime
    last: datetime
    bars: int


class Market(NamedTuple):
    """A calendar as arrays.

    `days` holds the session dates as days since 1970. `opens` and `closes` are the stretches of
    trading, half open, ascending; a lunch break makes two of one session. The calendar knows what
    happens in [first_ns, last_ns) and nothing outside.
    """

    timezone: str
    days: Times
    opens: Times
    closes: Times
    first_ns: int
    last_ns: int


@cache
def market(calendar: str) -> Market:
    """Return the calendar of that name.

    Raises:
        CalendarError: There is no such calendar, or its library cannot build it.
    """
    if calendar == ALWAYS_OPEN:
        return _always_open()
    return _foreign_exchange() if calendar == FOREIGN_EXCHANGE else _exchange(calendar)


def _own_span() -> tuple[pd.Timestamp, pd.Timestamp]:
    return pd.Timestamp(rules.MIN_BAR_YEAR, 1, 1), pd.Timestamp(rules.MAX_BAR_YEAR + 1, 1, 1)


def _always_open() -> Market:
    first, last = (day.as_unit("ns").value for day in _own_span())
    days = np.arange(first // _DAY_NS, last // _DAY_NS, dtype=np.int64)
    # A stretch a day: one over all the years would overflow 64 bits of nanoseconds.
    return Market("UTC", days, days * _DAY_NS, (days + 1) * _DAY_NS, first, last)


def _foreign_exchange() -> Market:
    zone = "America/New_York"
    first, last = _own_span()
    dates = pd.bdate_range(first, last, inclusive="left").as_unit("ns")
    christmas_or_new_year = ((dates.month == 12) & (dates.day == 25)) | (
        (dates.month == 1) & (dates.day == 1)
    )
    midnights = dates[~christmas_or_new_year].asi8
    opens = _utc_ns(midnights - _DAY_NS + _FX_ROLLOVER_NS, zone)
    closes = _utc_ns(midnights + _FX_ROLLOVER_NS, zone)
    return Market(zone, midnights // _DAY_NS, opens, closes, int(opens[0]), last.as_unit("ns").value)


def _exchange(name: str) -> Market:
    calendar, start, end = _exchange_calendar(name)
    schedule = calendar.schedule
    opens, break_starts, break_ends, closes = (
        schedule[column].astype("datetime64[ns, UTC]").array.asi8
        for column in ("open", "break_start", "break_end", "close")
    )
    broken = schedule["break_start"].notna().to_numpy()
    # A session with a break trades from open to break_start and from break_end to close.
    all_opens = np.sort(np.concatenate([opens, break_ends[broken]]))
    all_closes = np.sort(np.concatenate([closes, break_starts[broken]]))
    days = schedule.index.as_unit("ns").asi8 // _DAY_NS
    first_ns = min(start.as_unit("ns").value, int(opens[0]))
    last_ns = max(end.as_unit("ns").value + _DAY_NS, int(closes[-1]))
    return Market(str(calendar.tz), days, all_opens, all_closes, first_ns, last_ns)


def _exchange_calendar(name: str) -> tuple[Any, pd.Timestamp, pd.Timestamp]:
    """Return a calendar of exchange_calendars with the first and the last day it was built for."""
    with warnings.catch_warnings():
        # exchange_calendars 4.13 still uses two idioms that pandas 3 deprecates.
        warnings.simplefilter("ignore", pd.errors.Pandas4Warning)
        warnings.simplefilter("ignore", FutureWarning)
        import exchange_calendars

        try:
            bounds = exchange_calendars.get_calendar(name)
            first, last = pd.Timestamp(rules.EXCHANGE_FIRST_DATE), pd.Timestamp(rules.EXCHANGE_LAST_DATE)
            start, end = max(first, bounds.bound_min() or first), min(last, bounds.bound_max() or last)
            return exchange_calendars.get_calendar(name, start=start, end=end), start, end
        except exchange_calendars.errors.InvalidCalendarName:
            raise CalendarError(
                f"found the calendar {name!r}, needed 24/7, FX or a code of exchange_calendars such as XNYS"
            ) from None
        except (ValueError, NotImplementedError) as error:
            raise CalendarError(
                f"the calendar {name!r} cannot be built by exchange_calendars "
                f"{exchange_calendars.__version__} ({type(error).__name__}). Use another calendar"
            ) from error


def _utc_ns(local_ns: Times, timezone: str) -> Times:
    """Return the instants of wall-clock times; a repeated hour is its second, a skipped one moves on."""
    local = pd.DatetimeIndex(local_ns.view("M8[ns]"))
    repeated_hour_is_second = np.zeros(len(local), dtype=bool)
    zoned = local.tz_localize(timezone, ambiguous=repeated_hour_is_second, nonexistent="shift_forward")
    return zoned.asi8


def _local_ns(times_ns: Times, timezone: str) -> Times:
    """Return the wall-clock times of instants, as nanoseconds since 1970-01-01 00:00 local time."""
    zoned = pd.DatetimeIndex(times_ns.view("M8[ns]"), tz="UTC").tz_convert(timezone)
    return zoned.tz_localize(None).asi8


class _Slots(NamedTuple):
    """Expected bars, numbered from 0, as runs of equally spaced times.

    Run i has counts[i] slots at grid[i] + k * step; its first slot stands at starts[i], which is
    later than grid[i] where a session opens inside a slot of the clock. `ends[i]` closes the run,
    `before[i]` slots stand in earlier runs.
    """

    starts: Times
    grid: Times
    ends: Times
    counts: Times
    before: Times
    step: int

    def count_until(self, times_ns: Times) -> Times:
        """Return how many slots stand at or before each time."""
        run = np.searchsorted(self.starts, times_ns, side="right") - 1
        into_run = np.minimum((times_ns - self.grid[run]) // self.step + 1, self.counts[run])
        return np.where(run < 0, 0, self.before[run] + into_run)

    def numbers(self, times_ns: Times) -> Times:
        """Return the slots that hold at least one of the times, ascending, each once."""
        run = np.searchsorted(self.grid, times_ns, side="right") - 1
        slot = (times_ns - self.grid[run]) // self.step
        inside = (run >= 0) & (slot < self.counts[run]) & (times_ns < self.ends[run])
        return np.unique((self.before[run] + slot)[inside])

    def bars_on_grid(self, times_ns: Times) -> int:
        """Return how many of the times stand where a slot begins."""
        run = np.searchsorted(self.grid, times_ns, side="right") - 1
        return int(np.count_nonzero((times_ns - self.grid[run]) % self.step == 0))

    def time_ns(self, number: int) -> int:
        """Return the time of one slot."""
        run = int(np.searchsorted(self.before, number, side="right")) - 1
        slot = number - int(self.before[run])
        return int(self.starts[run]) if slot == 0 else int(self.grid[run]) + slot * self.step


def _slots(starts: Times, grid: Times, ends: Times, step: int) -> _Slots:
    counts = -((grid - ends) // step)
    # Two stretches of trading may share a slot of the clock; the later one leaves it to the earlier.
    shared = np.zeros(len(grid), dtype=bool)
    shared[1:] = grid[1:] < (grid + counts * step)[:-1]
    grid = grid + shared * step
    counts = counts - shared
    starts = np.where(shared, grid, starts)
    kept = counts > 0
    starts, grid, ends, counts = starts[kept], grid[kept], ends[kept], counts[kept]
    return _Slots(starts, grid, ends, counts, np.cumsum(counts) - counts, step)


def _intraday_slots(hours: Market, bars_ns: Times, step: int, timezone: str) -> _Slots:
    """Return the slots on the grid most bars stand on: from the open, the local clock or UTC's."""
    opens = hours.opens
    grids = (opens, opens - _local_ns(opens, timezone) % step, opens - opens % step)
    candidates = [_slots(opens, grid, hours.closes, step) for grid in grids]
    return max(candidates, key=lambda slots: slots.bars_on_grid(bars_ns))


def _session_days(bars_ns: Times, timezone: str) -> Times:
    """Return the session date of daily bars: the UTC date of a midnight in UTC, else the local date."""
    return np.where(bars_ns % _DAY_NS == 0, bars_ns, _local_ns(bars_ns, timezone)) // _DAY_NS


def _daily_slots(hours: Market, bars_ns: Times, days: Times, timezone: str) -> _Slots:
    """Return one slot a session, stamped as most of the file's bars are."""
    midnights = hours.days * _DAY_NS
    stamps, uses = np.unique(_local_ns(bars_ns, timezone) - days * _DAY_NS, return_counts=True)
    if len(bars_ns) and uses.max() > np.count_nonzero(bars_ns % _DAY_NS == 0):
        midnights = _utc_ns(midnights + stamps[uses.argmax()], timezone)
    each_one = np.ones_like(midnights)
    return _Slots(midnights, midnights, midnights + 1, each_one, np.arange(len(midnights)), _DAY_NS)


class CoverageIndex:
    """Built once for the bars of one file; answers the coverage of any number of windows.

    A daily series has one expected bar a session, an intraday series one a timeframe from each open
    to its close, a part of one at the end included. The expected daily bar stands at 00:00 UTC of
    the session date, or at the local time of day that most of the file's bars have. A bar inside a
    slot covers it, once. Outside the years its calendar knows every timeframe counts as expected,
    so that a window there is never covered.
    """

    def __init__(
        self, bar_times_ns: Times, *, calendar: str, timeframe: str, timezone: str | None = None
    ) -> None:
        """Index the bars.

        Args:
            bar_times_ns: UTC epoch nanoseconds, any order, shape (bars,).
            calendar: `24/7`, `FX` or a code of exchange_calendars.
            timeframe: A key of `rules.TIMEFRAMES_SECONDS`.
            timezone: Zone of the dates of daily bars; the calendar's own by default.

        Raises:
            CalendarError: The calendar or the timeframe is unknown.
        """
        if timeframe not in rules.TIMEFRAMES_SECONDS:
            raise CalendarError(
                f"found the timeframe {timeframe!r}, needed one of {', '.join(rules.TIMEFRAMES_SECONDS)}"
            )
        bars_ns = np.asarray(bar_times_ns, dtype=np.int64)
        hours = market(calendar)
        zone = timezone or hours.timezone
        self._first_ns, self._last_ns = hours.first_ns, hours.last_ns
        if timeframe == "1d":
            days = _session_days(bars_ns, zone)
            self._slots = _daily_slots(hours, bars_ns, days, zone)
            self._present = np.flatnonzero(np.isin(hours.days, days))
        else:
            self._slots = _intraday_slots(hours, bars_ns, rules.TIMEFRAMES_SECONDS[timeframe] * 10**9, zone)
            self._present = self._slots.numbers(bars_ns)

    def window_counts(self, starts_ns: Times, ends_ns: Times) -> tuple[Times, Times]:
        """Return (present, expected) bars of each window [start, end], both ends inclusive.

        Args:
            starts_ns: UTC epoch nanoseconds, shape (windows,).
            ends_ns: The same; a window that ends before it starts expects no bars.
        """
        starts = np.maximum(np.asarray(starts_ns, dtype=np.int64), _EARLIEST_NS)
        ends = np.maximum(np.asarray(ends_ns, dtype=np.int64), starts - 1)
        first, last = self._slots.count_until(starts - 1), self._slots.count_until(ends)
        present = np.searchsorted(self._present, last) - np.searchsorted(self._present, first)
        earlier = self._unknown_bars(starts, np.minimum(ends, self._first_ns - 1))
        later = self._unknown_bars(np.maximum(starts, self._last_ns), ends)
        return present.astype(np.int64), last - first + earlier + later

    def _unknown_bars(self, starts: Times, ends: Times) -> Times:
        """Return the timeframes that stretches touch which the calendar does not know."""
        # Divided before subtracted: a stretch may be longer than 64 bits of nanoseconds.
        return np.where(ends < starts, 0, ends // self._slots.step - starts // self._slots.step + 1)

    def missing_ranges(self, start_ns: int, end_ns: int) -> list[MissingRange]:
        """Return the expected bars of [start, end] that the file lacks, in runs, oldest first.

        Their `bars` add up to expected minus present of the same window.
        """
        start_ns = max(start_ns, _EARLIEST_NS)
        bounds = np.array([start_ns - 1, max(end_ns, start_ns - 1)], dtype=np.int64)
        first, last = (int(number) for number in self._slots.count_until(bounds))
        present = self._present[slice(*np.searchsorted(self._present, [first, last]))]
        edges = np.concatenate([[first - 1], present, [last]])
        gaps = np.flatnonzero(np.diff(edges) > 1)
        known = [self._gap(int(edges[gap]) + 1, int(edges[gap + 1]) - 1) for gap in gaps]
        earlier = self._unknown_range(start_ns, min(end_ns, self._first_ns - 1))
        later = self._unknown_range(max(start_ns, self._last_ns), end_ns)
        return [*earlier, *known, *later]

    def _gap(self, first: int, last: int) -> MissingRange:
        times = (self._slots.time_ns(first), self._slots.time_ns(last))
        return MissingRange(_utc(times[0]), _utc(times[1]), last - first + 1)

    def _unknown_range(self, start_ns: int, end_ns: int) -> list[MissingRange]:
        if end_ns < start_ns:
            return []
        bars = end_ns // self._slots.step - start_ns // self._slots.step + 1
        return [MissingRange(_utc(start_ns), _utc(end_ns), bars)]


def _utc(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // 10**9, tz=UTC)
