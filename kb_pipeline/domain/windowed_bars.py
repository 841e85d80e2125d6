"""Find where windows lie in a series of bars, and whether the bars there suffice for a regime.

Windows come from `windows`, expected bars from `calendars`; what to do about a thin window is the
regime backfill's decision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
import numpy.typing as npt

from kb_pipeline.domain.calendars import CoverageIndex
from kb_pipeline.domain.windows import TimeWindow
from kb_pipeline.rules import MIN_WINDOW_BARS

Integers = npt.NDArray[np.int64]

NS_PER_DAY: Final = 86_400 * 10**9
_NS_PER_SECOND: Final = 10**9


@dataclass(frozen=True, slots=True)
class CheckedWindows:
    """Windows over one series of bars; arrays have shape (windows,).

    `begins` and `ends` are half-open bar positions, `starts_ns` and `ends_ns` the time claimed
    (inclusive), `present` and `expected` count bars, `covered` says whether they suffice for the
    share `min_coverage` of the expected bars and for a snapshot.
    """

    begins: Integers
    ends: Integers
    starts_ns: Integers
    ends_ns: Integers
    present: Integers
    expected: Integers
    covered: npt.NDArray[np.bool_]
    min_coverage: float

    def describe(self, window: int) -> str:
        """Return one window and its coverage in words."""
        first, last = _day(self.starts_ns[window]), _day(self.ends_ns[window])
        bars = self.ends[window] - self.begins[window]
        found = f"{bars} bars, {self.present[window]} of {self.expected[window]} expected"
        return f"window {first}..{last}: {found}; {MIN_WINDOW_BARS} bars and {self.min_coverage:.0%} needed"


class WindowedBars:
    """The bars of one file, ready to be asked about any number of windows."""

    def __init__(self, times_ns: Integers, coverage: CoverageIndex, min_coverage: float) -> None:
        """Take ascending bar times in UTC nanoseconds and the share of expected bars to demand."""
        self._times_ns = times_ns
        self._coverage = coverage
        self._min_coverage = min_coverage

    def check(self, windows: Sequence[TimeWindow], *, in_sample: bool = False) -> CheckedWindows:
        """Place windows and check their coverage.

        Args:
            windows: What runs claim. One with an `oos_ratio` is a range that is split by bars.
            in_sample: Take the bars before the split instead of those after it.
        """
        starts_ns = np.array([window.start_ns for window in windows], dtype=np.int64)
        ends_ns = np.array([window.end_ns for window in windows], dtype=np.int64)
        begins = np.searchsorted(self._times_ns, starts_ns, side="left")
        ends = np.searchsorted(self._times_ns, ends_ns, side="right")
        ratios = np.array([np.nan if w.oos_ratio is None else w.oos_ratio for w in windows], dtype=np.float64)
        split = ~np.isnan(ratios) & (ends > begins)
        # Where bars of the range are missing, the split would fall on another day than the run's own.
        range_covered = self._suffices(*self._coverage.window_counts(starts_ns, ends_ns))
        cut = begins + np.floor((1 - np.where(split, ratios, 0)) * (ends - begins)).astype(np.int64)
        if in_sample:
            ends = np.where(split, cut, ends)
            ends_ns = np.where(split, self._time_at(cut - 1), ends_ns)
        else:
            begins = np.where(split, cut, begins)
            starts_ns = np.where(split, self._time_at(cut), starts_ns)
        present, expected = self._coverage.window_counts(starts_ns, ends_ns)
        covered = self._suffices(present, expected) & (range_covered | ~split)
        covered &= ends - begins >= MIN_WINDOW_BARS
        return CheckedWindows(
            begins, ends, starts_ns, ends_ns, present, expected, covered, self._min_coverage
        )

    def _suffices(self, present: Integers, expected: Integers) -> npt.NDArray[np.bool_]:
        # Divided, not multiplied: 0.55 * 100 is 55.00000000000001, and 55 of 100 bars are 55 %.
        return (present / np.maximum(expected, 1) >= self._min_coverage) & (expected > 0)

    def _time_at(self, positions: Integers) -> Integers:
        return self._times_ns[np.clip(positions, 0, len(self._times_ns) - 1)]


def _day(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(int(time_ns) // _NS_PER_SECOND, UTC):%Y-%m-%d}"
