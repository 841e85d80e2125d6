"""What a table of price bars must be: its columns, its times and the rules its values obey.

A *bars frame* has a DatetimeIndex named `ts` in UTC, strictly increasing, and the float64 columns
open, high, low, close, where known volume, and where given adj_close. Files are read and located
failures are worded in `storage.ohlcv_files`; which bars a calendar expects stands in `calendars`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pandera

PRICE_COLUMNS: Final = ("open", "high", "low", "close")
OPTIONAL_COLUMNS: Final = ("volume", "adj_close")
"""A missing volume is an absent column, never zero."""


Values = Any
"""An array or a Series of numbers, or of whether a rule holds: rules are asked of both alike."""

Columns = Any
"""Values by the name of their column: a mapping, or a frame."""


class ValueRule(NamedTuple):
    """What each value of a column must be; `holds` takes the column, `needed` is for people."""

    reason: str
    columns: tuple[str, ...]
    needed: str
    holds: Callable[[Values], Values]


class RowRule(NamedTuple):
    """What a row must be; a breach is shown at `column`."""

    reason: str
    column: str
    needed: str
    beside: tuple[str, ...]
    holds: Callable[[Columns], Values]


class Violation(NamedTuple):
    """One rule broken by the rows at these positions; `beside` are the columns it is held against."""

    reason: str
    column: str
    needed: str
    beside: tuple[str, ...]
    positions: npt.NDArray[np.int64]


def _is_finite(values: Values) -> Values:
    return abs(values) < np.inf


def _is_positive(values: Values) -> Values:
    return ~(values <= 0)


def _is_not_negative(values: Values) -> Values:
    return ~(values < 0)


def _high_is_not_below_low(columns: Columns) -> Values:
    return ~(columns["high"] < columns["low"])


def _lies_between(column: str) -> Callable[[Columns], Values]:
    def lies_between_low_and_high(columns: Columns) -> Values:
        price, low, high = columns[column], columns["low"], columns["high"]
        # A high below its low is one mistake and is shown once, at the high.
        return ~((price < low) | (price > high)) | (high < low)

    return lies_between_low_and_high


VALUE_RULES: Final = (
    ValueRule("not_finite", PRICE_COLUMNS + OPTIONAL_COLUMNS, "a finite number", _is_finite),
    ValueRule("not_positive", PRICE_COLUMNS, "a price above 0", _is_positive),
    ValueRule("negative_volume", ("volume",), "a volume of 0 or more", _is_not_negative),
)
"""NaN breaks the first rule only, so that one bad value is one failure."""

ROW_RULES: Final = (
    RowRule(
        "ohlc_inconsistent", "open", "an open between low and high", ("low", "high"), _lies_between("open")
    ),
    RowRule("ohlc_inconsistent", "high", "a high not below the low", ("low",), _high_is_not_below_low),
    RowRule(
        "ohlc_inconsistent", "close", "a close between low and high", ("low", "high"), _lies_between("close")
    ),
)


def violations(columns: Mapping[str, npt.NDArray[np.float64]]) -> list[Violation]:
    """Return the rules that rows break, with every position; their order is free.

    Arrays and not a frame: asked of forty thousand rows at a time, pandas took most of it.
    """
    nothing: tuple[str, ...] = ()
    broken = [
        (rule.reason, column, rule.needed, nothing, ~rule.holds(columns[column]))
        for rule in VALUE_RULES
        for column in rule.columns
        if column in columns
    ]
    broken += [
        (rule.reason, rule.column, rule.needed, rule.beside, ~rule.holds(columns)) for rule in ROW_RULES
    ]
    return [
        Violation(reason, column, needed, beside, np.flatnonzero(mask))
        for reason, column, needed, beside, mask in broken
        if mask.any()
    ]


def _value_checks(column: str) -> list[pandera.Check]:
    # Pandera leaves NaN out of its checks; a column that is not nullable refuses it.
    return [
        pandera.Check(
            rule.holds, name=rule.reason, error=f"needed {rule.needed}", ignore_na=rule.holds is _is_finite
        )
        for rule in VALUE_RULES
        if column in rule.columns
    ]


def _increases_strictly(times: pd.Series) -> bool:
    # Compared and not subtracted: 1900 and 2200 are further apart than 64 bits of nanoseconds.
    values = pd.DatetimeIndex(times).asi8
    return bool((values[1:] > values[:-1]).all())


OHLCV_SCHEMA: Final = pandera.DataFrameSchema(
    columns={
        name: pandera.Column("float64", _value_checks(name), required=name in PRICE_COLUMNS)
        for name in PRICE_COLUMNS + OPTIONAL_COLUMNS
    },
    checks=[
        # NaN breaks no row rule; to leave it out, every cell would be looked at once more for each.
        pandera.Check(
            rule.holds, name=f"{rule.reason}_{rule.column}", error=f"needed {rule.needed}", ignore_na=False
        )
        for rule in ROW_RULES
    ],
    index=pandera.Index(
        "datetime64[ns, UTC]",
        pandera.Check(_increases_strictly, name="times_increase", error="needed strictly increasing times"),
        name="ts",
    ),
    name="ohlcv",
)
"""A bars frame. Validate with lazy=True to be told of every failure at once."""


def bar_times_ns(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return the times of a bars frame as UTC epoch nanoseconds, shape (bars,)."""
    index = frame.index
    if not isinstance(index, pd.DatetimeIndex):
        raise TypeError(f"found an index of {type(index).__name__}, needed the DatetimeIndex of a bars frame")
    return index.as_unit("ns").asi8
