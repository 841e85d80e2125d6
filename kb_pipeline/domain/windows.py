"""Find a run's own out-of-sample (and in-sample) window in what the platform wrote about it.

Takes the JSON fragments of one run, answers with bounds in time or a share of a range. Where bars
lie inside the bounds, and whether they suffice, is decided by the regime backfill.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, Final

from kb_pipeline.rules import MAX_OOS_RATIO, SkipReason

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DATE_LENGTH: Final = len("2025-01-31")
MAX_INSTANT_NS: Final = 2**63 - 1
"""Bounds beyond the years that 64 bits of nanoseconds reach (1677 to 2262) are moved to that edge."""


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """Bounds in UTC nanoseconds since 1970, both inclusive.

    With `oos_ratio` r, the window is not the whole range but its last bars: those after the first
    floor((1 - r) * N) of the N bars in it.
    """

    start_ns: int
    end_ns: int
    oos_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class RunWindows:
    """The windows of one run: out of sample, and in sample where the run gives one.

    Where the out-of-sample window is a share of a range, `in_sample` is that same window and means
    the bars before the share.
    """

    out_of_sample: TimeWindow
    in_sample: TimeWindow | None = None


class _UnreadableWindowError(ValueError):
    """A bound is present and cannot be read."""


def run_windows(
    dataset_meta: Mapping[str, Any], params: Mapping[str, Any], *, day_zone: tzinfo | None = None
) -> RunWindows | SkipReason:
    """Return the windows of a run, or why it has none.

    Args:
        dataset_meta: The run's `dataset_meta`; of it only the window's fields are read.
        params: The run's `params`, likewise.
        day_zone: Zone whose days a bare date means; UTC where None.
    """
    zone = day_zone or UTC
    try:
        out_of_sample = _out_of_sample(dataset_meta, params, zone)
        if out_of_sample is None:
            return SkipReason.MISSING_DATE_RANGE
        return RunWindows(out_of_sample, _in_sample(dataset_meta, params, out_of_sample, zone))
    except _UnreadableWindowError:
        return SkipReason.INVALID_DATE_RANGE


def _out_of_sample(meta: Mapping[str, Any], params: Mapping[str, Any], zone: tzinfo) -> TimeWindow | None:
    named = _named_window("oos", meta, params, zone)
    if named is not None:
        return named
    start, end = meta.get("date_min"), meta.get("date_max")
    if start is None and end is None:  # a share of no range is no window, and none that cannot be read
        return None
    whole = _window(start, end, zone)
    return TimeWindow(whole.start_ns, whole.end_ns, _oos_ratio(meta, params))


def _in_sample(
    meta: Mapping[str, Any], params: Mapping[str, Any], out_of_sample: TimeWindow, zone: tzinfo
) -> TimeWindow | None:
    """Return the in-sample window; one that cannot be read does not spoil the other one."""
    if out_of_sample.oos_ratio is not None:
        return out_of_sample
    try:
        return _named_window("is", meta, params, zone)
    except _UnreadableWindowError:
        return None


def _named_window(
    name: str, meta: Mapping[str, Any], params: Mapping[str, Any], zone: tzinfo
) -> TimeWindow | None:
    nested = meta.get(name)
    nested = nested if isinstance(nested, Mapping) else {}
    pairs = (
        (meta.get(f"{name}_start"), meta.get(f"{name}_end")),
        (nested.get("start"), nested.get("end")),
        (params.get(f"{name}_start"), params.get(f"{name}_end")),
    )
    for start, end in pairs:
        if start is not None or end is not None:
            return _window(start, end, zone)
    return None


def _oos_ratio(meta: Mapping[str, Any], params: Mapping[str, Any]) -> float | None:
    """Return the out-of-sample share; a number outside (0, 0.5] is no split, anything else is unreadable."""
    ratio = meta.get("oos_ratio")
    if ratio is None:
        ratio = params.get("oos_ratio")
    if ratio is None:
        return None
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not abs(ratio) <= sys.float_info.max:
        raise _UnreadableWindowError  # an integer may be beyond the floats, where isfinite() raises
    return float(ratio) if 0 < ratio <= MAX_OOS_RATIO else None


def _window(start: object, end: object, zone: tzinfo) -> TimeWindow:
    """Return the window between two stored bounds."""
    window = TimeWindow(_instant_ns(start, zone, end_of_day=False), _instant_ns(end, zone, end_of_day=True))
    if window.start_ns > window.end_ns:
        raise _UnreadableWindowError
    return window


def _instant_ns(value: object, zone: tzinfo, *, end_of_day: bool) -> int:
    """Return a stored bound as UTC nanoseconds; times without a zone are UTC, a bare date is its day."""
    if not isinstance(value, str):
        raise _UnreadableWindowError
    text = value.strip()
    try:
        if len(text) <= _DATE_LENGTH:  # also 20250131 and 2025-W05-5: a day, not its first instant
            return _day_bound_ns(date.fromisoformat(text), zone, end_of_day=end_of_day)
        instant = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise _UnreadableWindowError from error
    return _nanoseconds(instant if instant.tzinfo else instant.replace(tzinfo=UTC))


def _day_bound_ns(day: date, zone: tzinfo, *, end_of_day: bool) -> int:
    if not end_of_day:
        return _nanoseconds(datetime.combine(day, time(), tzinfo=zone))
    return _nanoseconds(datetime.combine(day + timedelta(days=1), time(), tzinfo=zone)) - 1


def _nanoseconds(instant: datetime) -> int:
    since = instant - _EPOCH
    nanoseconds = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000
    return max(-MAX_INSTANT_NS, min(nanoseconds, MAX_INSTANT_NS))
