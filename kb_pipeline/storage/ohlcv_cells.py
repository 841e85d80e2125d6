"""Read the cells of one column: numbers and times.

Each column is read twice at most: at once by Arrow, which either understands every cell or gives
up, then cell by cell, which understands a little more and names every cell that it does not. Both
accept only what the other accepts with the same value. Where a cell stands in its file is not
known here.
"""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kb_pipeline import rules
from kb_pipeline.storage.ohlcv_failures import Refusal

Times = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
_Value = TypeVar("_Value")

FLOAT64_DIGITS: Final = 17
"""Significant digits that a float64 can need; a literal with more is rounded."""

_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INFINITY: Final = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_DECIMAL_COMMA: Final = re.compile(r"[+-]?[0-9]+,[0-9]+")
_TIME: Final = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ](?P<hour>[0-9]{2})"
    r"(?::(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,9}))?)?)?"
    r"(?P<zone>Z|(?P<sign>[+-])(?P<zone_hours>[0-9]{2})(?::?(?P<zone_minutes>[0-9]{2}))?)?)?"
)
_EPOCH_SECONDS: Final = re.compile(r"[0-9]{9,10}")
_EPOCH_MILLISECONDS: Final = re.compile(r"[0-9]{12,13}")

_FIRST_NS: Final = int(datetime(rules.MIN_BAR_YEAR, 1, 1, tzinfo=UTC).timestamp()) * 10**9
_LAST_NS: Final = int(datetime(rules.MAX_BAR_YEAR + 1, 1, 1, tzinfo=UTC).timestamp()) * 10**9 - 1


class BadCell(NamedTuple):
    """A cell that cannot be read, by its position in the column."""

    row: int
    reason: Refusal
    found: str
    needed: str


class NumberColumn(NamedTuple):
    """Values, NaN where bad; `rounded` counts literals with more digits than a float64 holds."""

    values: Numbers
    rounded: int
    bad: list[BadCell]


class TimeColumn(NamedTuple):
    """UTC epoch nanoseconds, 0 where bad, and their form: naive, aware, seconds or milliseconds."""

    values: Times
    form: str | None
    bad: list[BadCell]


class _Unread(NamedTuple):
    reason: Refusal
    needed: str


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())


# --- Numbers -----------------------------------------------------------------------------------


def read_numbers(column: pa.ChunkedArray, *, exact: bool = False, to_first_bad: bool = False) -> NumberColumn:
    """Return a column of numbers, each correctly rounded to float64.

    Args:
        column: Texts, integers, floats or, for times, timestamps.
        exact: Read cell by cell from the start; for tests.
        to_first_bad: One bad cell is enough; what comes after it is not looked at.
    """
    if not exact:
        values = _numbers_at_once(column)
        if values is not None:
            return NumberColumn(values, _rounded(column), [])
    texts = _texts(column).to_pylist()
    read = _read(_number, texts, to_first_bad=to_first_bad)
    bad = [
        BadCell(row, value.reason, str(text), value.needed)
        for row, (value, text) in enumerate(zip(read, texts, strict=False))
        if isinstance(value, _Unread)
    ]
    values = np.array([math.nan if isinstance(value, _Unread) else value for value in read], dtype=np.float64)
    return NumberColumn(values, _rounded(column), bad)


def _read(
    cell: Callable[[str | None], _Value | _Unread], texts: list[str | None], *, to_first_bad: bool
) -> list[_Value | _Unread]:
    if not to_first_bad:
        return [cell(text) for text in texts]
    read = []
    for text in texts:
        read.append(cell(text))
        if isinstance(read[-1], _Unread):
            break
    return read


def _numbers_at_once(column: pa.ChunkedArray) -> Numbers | None:
    if column.null_count:
        return None
    try:
        values: Numbers = pc.cast(column, pa.float64(), safe=pa.types.is_string(column.type)).to_numpy()
    except pa.ArrowInvalid:
        return None
    return values if np.isfinite(values).all() else None


def _number(text: str | None) -> float | _Unread:
    stripped = "" if text is None else text.strip(" ")
    if _NUMBER.fullmatch(stripped):
        value = float(stripped)
        return (
            value if math.isfinite(value) else _Unread(Refusal.NOT_FINITE, "a number that a float64 can hold")
        )
    if _INFINITY.fullmatch(stripped):
        return _Unread(Refusal.NOT_FINITE, "a finite number. Remove the row or correct it")
    if _DECIMAL_COMMA.fullmatch(stripped):
        return _Unread(Refusal.NOT_A_NUMBER, f"a decimal point. Write {stripped.replace(',', '.')}")
    if stripped.lower() in ("", "nan", "null"):
        return _Unread(Refusal.NOT_A_NUMBER, "a number. Remove the row or fill it in")
    return _Unread(Refusal.NOT_A_NUMBER, "a plain decimal number such as 1.5")


def _rounded(column: pa.ChunkedArray) -> int:
    """Return how many literals hold more digits than a float64; each filter leaves fewer to look at."""
    if pa.types.is_integer(column.type):
        large = pc.filter(column, pc.greater(pc.cast(column, pa.float64(), safe=False), 2.0**52))
        return sum(int(float(whole)) != whole for whole in large.to_pylist())
    if not pa.types.is_string(column.type):
        return 0
    long = pc.filter(column, pc.greater(pc.binary_length(column), FLOAT64_DIGITS))
    without_point = pc.replace_substring(long, ".", "")
    longer = pc.filter(without_point, pc.greater(pc.binary_length(without_point), FLOAT64_DIGITS))
    return sum(_significant_digits(text) > FLOAT64_DIGITS for text in longer.to_pylist())


def _significant_digits(digits_and_exponent: str) -> int:
    mantissa = re.split("[eE]", digits_and_exponent.strip(" +-"), maxsplit=1)[0]
    return len(mantissa.strip("0"))


# --- Times -------------------------------------------------------------------------------------


def read_times(
    column: pa.ChunkedArray, timezone: ZoneInfo | None, *, exact: bool = False, to_first_bad: bool = False
) -> TimeColumn:
    """Return a column of times as UTC epoch nanoseconds.

    Args:
        column: Texts, integers, floats or, for times, timestamps.
        timezone: Zone of times that name none; UTC by default.
        exact: Read cell by cell from the start; for tests.
        to_first_bad: One bad cell is enough; what comes after it is not looked at.
    """
    if not exact:
        read = _times_at_once(column)
        if read is not None:
            naive = read.form == "naive"
            return _localised(read.values, timezone, column) if naive and timezone else read
    return _times_by_cell(_texts(column), timezone, to_first_bad=to_first_bad)


def _times_at_once(column: pa.ChunkedArray) -> TimeColumn | None:
    """Return times in their own zone or in none, or None where cells differ or one is odd."""
    if column.null_count or not len(column):
        return None
    try:
        if pa.types.is_timestamp(column.type):
            return _in_years(column, column.type.tz is None)
        if not pa.types.is_string(column.type):
            return None
        first = str(column[0])
        if first.isdigit():
            return _epochs_at_once(column, len(first))
        match = _TIME.fullmatch(first)
        naive = match is None or match["zone"] is None
        return _in_years(pc.cast(column, pa.timestamp("us", None if naive else "UTC")), naive)
    except pa.ArrowInvalid:
        return None


def _in_years(times: pa.ChunkedArray, naive: bool) -> TimeColumn | None:
    # Microseconds reach the year 290,000; nanoseconds would wrap around silently in 2262.
    coarse = pc.cast(pc.cast(times, pa.timestamp("us", times.type.tz), safe=False), pa.int64()).to_numpy()
    if int(coarse.min()) * 1_000 < _FIRST_NS or int(coarse.max()) * 1_000 > _LAST_NS:
        return None
    fine = pc.cast(pc.cast(times, pa.timestamp("ns", times.type.tz)), pa.int64())
    return TimeColumn(fine.to_numpy(), "naive" if naive else "aware", [])


def _epochs_at_once(column: pa.ChunkedArray, digits: int) -> TimeColumn | None:
    form, pattern, unit_ns = (
        ("seconds", "^[0-9]{9,10}$", 10**9) if digits <= 10 else ("milliseconds", "^[0-9]{12,13}$", 10**6)
    )
    if not pc.all(pc.match_substring_regex(column, pattern)).as_py():
        return None
    epochs = pc.cast(column, pa.int64()).to_numpy()
    return None if epochs.max() > _LAST_NS // unit_ns else TimeColumn(epochs * unit_ns, form, [])


def _localised(local_ns: Times, timezone: ZoneInfo, column: pa.ChunkedArray) -> TimeColumn:
    """Return the instants of wall-clock times; an hour that is repeated or skipped names none."""
    local = pd.DatetimeIndex(local_ns.view("M8[ns]"))
    ambiguous = local.tz_localize(timezone, ambiguous="NaT", nonexistent="shift_forward").isna().tolist()
    instants = local.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT")
    unread = instants.isna()
    values = np.where(unread, 0, instants.as_unit("ns").asi8)
    bad = [
        BadCell(
            int(row),
            Refusal.AMBIGUOUS_TIME,
            str(column[row]),
            f"a time with its offset: {timezone} has it twice",
        )
        if ambiguous[row]
        else BadCell(
            int(row), Refusal.NONEXISTENT_TIME, str(column[row]), f"a time that exists in {timezone}"
        )
        for row in np.flatnonzero(unread)
    ]
    return TimeColumn(values, "naive", bad)


class _Time(NamedTuple):
    form: str
    ns: int


_MIXED: Final = {
    frozenset({"naive", "aware"}): (Refusal.MIXED_ZONES, "an offset on every time or on none"),
    frozenset({"seconds", "milliseconds"}): (Refusal.MIXED_EPOCH_UNITS, "one epoch unit in the whole file"),
}


def _times_by_cell(texts: pa.ChunkedArray, timezone: ZoneInfo | None, *, to_first_bad: bool) -> TimeColumn:
    cells = texts.to_pylist()
    read = _read(_time, cells, to_first_bad=to_first_bad)
    form = next((time.form for time in read if isinstance(time, _Time)), None)
    values = np.zeros(len(cells), dtype=np.int64)
    bad = []
    for row, time in enumerate(read):
        if isinstance(time, _Unread):
            bad.append(BadCell(row, time.reason, cells[row] or "", time.needed))
        elif time.form != form:
            other_form = (Refusal.MIXED_TIME_FORMS, "times in the form of the first row")
            reason, needed = _MIXED.get(frozenset({str(form), time.form}), other_form)
            bad.append(BadCell(row, reason, cells[row], needed))
        else:
            values[row] = time.ns
    if form == "naive" and timezone:
        unread = [cell.row for cell in bad]
        read_rows = np.setdiff1d(np.arange(len(cells)), unread)
        local = _localised(values[read_rows], timezone, texts.take(pa.array(read_rows)))
        values[read_rows] = local.values
        bad += [cell._replace(row=int(read_rows[cell.row])) for cell in local.bad]
    return TimeColumn(values, form, bad)


def _time(text: str | None) -> _Time | _Unread:
    stripped = "" if text is None else text.strip(" ")
    if _EPOCH_SECONDS.fullmatch(stripped):
        return _in_range("seconds", int(stripped) * 10**9)
    if _EPOCH_MILLISECONDS.fullmatch(stripped):
        return _in_range("milliseconds", int(stripped) * 10**6)
    match = _TIME.fullmatch(stripped)
    if match is None:
        return _Unread(Refusal.NOT_A_TIMESTAMP, "an ISO 8601 time such as 2024-01-31T09:30:00Z")
    try:
        return _iso_time(match)
    except ValueError as error:
        return _Unread(Refusal.NOT_A_TIMESTAMP, f"a time that exists: {error}")


def _iso_time(match: re.Match[str]) -> _Time | _Unread:
    clock = datetime.fromisoformat(match["date"]).replace(
        hour=int(match["hour"] or 0),
        minute=int(match["minute"] or 0),
        second=int(match["second"] or 0),
        tzinfo=UTC,
    )
    ns = int(clock.timestamp()) * 10**9 + int((match["fraction"] or "0").ljust(9, "0"))
    if match["zone"] is None:
        return _in_range("naive", ns)
    hours, minutes = int(match["zone_hours"] or 0), int(match["zone_minutes"] or 0)
    if hours > 23 or minutes > 59:
        raise ValueError("offset must be less than a day")
    offset_ns = (hours * 60 + minutes) * 60 * 10**9
    return _in_range("aware", ns + offset_ns if match["sign"] == "-" else ns - offset_ns)


def _in_range(form: str, ns: int) -> _Time | _Unread:
    if _FIRST_NS <= ns <= _LAST_NS:
        return _Time(form, ns)
    return _Unread(
        Refusal.TIMESTAMP_OUT_OF_RANGE, f"a year from {rules.MIN_BAR_YEAR} to {rules.MAX_BAR_YEAR}"
    )
