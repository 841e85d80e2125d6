"""Turn a table of cells into a bars frame, or into the list of everything wrong with it.

What CSV, JSON and Parquet have in common: which column plays which role, the order of the rows,
duplicates, and the rules of `domain.ohlcv`, whose failures are shown at their place in the file.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import nsmallest
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kb_pipeline import rules
from kb_pipeline.domain import ohlcv
from kb_pipeline.errors import OhlcvFileError
from kb_pipeline.storage.ohlcv_cells import BadCell, NumberColumn, read_numbers, read_times
from kb_pipeline.storage.ohlcv_failures import Failure, Refusal, refuse, refuse_all, shown

_ALIASES: Final = {
    "time": ("time", "datetime", "date", "timestamp", "ts"),
    "open": ("open", "o"),
    "high": ("high", "h"),
    "low": ("low", "l"),
    "close": ("close", "c"),
    "volume": ("volume", "v"),
    "adj_close": ("adj close", "adj_close", "adjclose", "adj. close", "adjusted close", "adjusted_close"),
    "symbol": ("symbol", "ticker"),
}
_ROLES: Final = {alias: role for role, aliases in _ALIASES.items() for alias in aliases}
_REQUIRED: Final = ("time", *ohlcv.PRICE_COLUMNS)
NUMBER_ROLES: Final = (*ohlcv.PRICE_COLUMNS, *ohlcv.OPTIONAL_COLUMNS)

_Values = TypeVar("_Values", npt.NDArray[np.int64], npt.NDArray[np.float64])
Times = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[np.float64]]
Cells = dict[str, pa.ChunkedArray]
"""By role, the column that plays it."""

Place = Callable[[int, int], tuple[int, int]]
"""From a row and a field, both counted from 0, to the line and field a message names."""

_Map = Callable[[Callable[[str], NumberColumn], Iterable[str]], Iterable[NumberColumn]]


def _counted_from_one(row: int, position: int) -> tuple[int, int]:
    return row + 1, position + 1


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as they were found, with only the columns that play a role.

    `roles` maps a role to its field, counted from 0; `cells` maps it to its column. `failures` are
    those of rows that could not be cut into fields; such rows are not in `cells`.
    """

    path: Path
    names: Sequence[str]
    roles: dict[str, int]
    cells: Cells
    place: Place = _counted_from_one
    place_form: str = "{path}:{line}:{field}"
    notices: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Parts:
    """A table that is cut part by part. `table` itself has no cells.

    `texts` holds the rows of each part; `cut` returns its cells, None where it cannot be cut at once.
    `expected_rows` is a guess, for which room is made: touching memory anew costs more than cutting.
    """

    table: Table
    expected_rows: int
    texts: Iterable[bytes]
    cut: Callable[[bytes], Cells | None]


class Bars(NamedTuple):
    """What a table holds: a bars frame, the one symbol it names, and what was done on the way."""

    frame: pd.DataFrame
    symbol: str | None
    notices: dict[str, int]


# --- Columns -----------------------------------------------------------------------------------


def is_time(name: str) -> bool:
    """Return whether a column of this name is the time of its bars."""
    return _ROLES.get(name.strip().lower()) == "time"


def column_roles(path: Path, names: Sequence[str]) -> dict[str, int]:
    """Return which field plays which role.

    Raises:
        OhlcvFileError: Too many columns, a role played twice, or one that nobody plays.
    """
    if len(names) > rules.MAX_OHLCV_COLUMNS:
        text = f"found {len(names)} columns, needed at most {rules.MAX_OHLCV_COLUMNS}. Keep the price columns"
        raise refuse(path, Refusal.TOO_MANY_COLUMNS, text)
    fields: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        role = _ROLES.get(name.strip().lower())
        if role:
            fields.setdefault(role, []).append(position)
    _refuse_missing(path, names, [role for role in _REQUIRED if role not in fields])
    for role, positions in fields.items():
        if len(positions) > 1:
            found = " and ".join(shown(names[position]) for position in positions)
            raise refuse(
                path, Refusal.DUPLICATE_COLUMNS, f"found the columns {found}, needed one {role} column"
            )
    return {role: positions[0] for role, positions in fields.items()}


def _refuse_missing(path: Path, names: Sequence[str], missing: list[str]) -> None:
    if not missing:
        return
    found = ", ".join(shown(name.strip()) for name in names[:12]) + (", ..." if len(names) > 12 else "")
    wanted = ", ".join(f"{role} (or {', '.join(_ALIASES[role][1:])})" for role in missing)
    raise refuse(
        path, Refusal.MISSING_COLUMNS, f"found the columns {found}; needed also {wanted}. Name the columns so"
    )


# --- Rows --------------------------------------------------------------------------------------


class _Read(NamedTuple):
    """The cells of a table as values, and by role those that cannot be read."""

    times: Times
    columns: Columns
    rounded: int
    bad: dict[str, list[BadCell]]
    symbols: list[str]
    time_form: str | None


def bars_from_table(table: Table, timezone: ZoneInfo | None, *, exact: bool = False) -> Bars:
    """Return the bars of a table, sorted, without exact duplicates.

    Args:
        table: Its cells.
        timezone: Zone of times that name none; UTC by default.
        exact: Read cell by cell from the start; for tests.

    Raises:
        OhlcvFileError: With every failure of the table.
    """
    with ThreadPoolExecutor() as pool:  # Arrow lets go of the interpreter while it converts a column
        read = _read(table.cells, timezone, pool.map, exact=exact)
    bars = None if ohlcv.violations(read.columns) else _good_bars(table, read)
    if bars is None:
        raise _refusal(table, read)
    return bars


def bars_from_parts(parts: Parts, timezone: ZoneInfo | None) -> Bars | None:
    """Return the bars of a table that is cut part by part, or None where anything is wrong with it.

    Parts are cut and read side by side while the next ones come in, and each is let go of when its values
    stand in their place.
    """

    def read_part(text: bytes) -> _Read | None:
        cells = parts.cut(text)
        read = None if cells is None else _read(cells, timezone, map, to_first_bad=True)
        return None if read is None or any(read.bad.values()) or ohlcv.violations(read.columns) else read

    whole, rows = None, 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for part in _side_by_side(pool, read_part, parts.texts):
            if part is None or (whole and part.time_form != whole.time_form):
                pool.shutdown(wait=True, cancel_futures=True)
                return None
            whole = _joined(whole or _with_room(part, parts.expected_rows), rows, part)
            rows += len(part.times)
    if whole is None:
        return None
    columns = {name: values[:rows] for name, values in whole.columns.items()}
    return _good_bars(parts.table, whole._replace(times=whole.times[:rows], columns=columns))


def _side_by_side(
    pool: ThreadPoolExecutor, read: Callable[[bytes], _Read | None], texts: Iterable[bytes]
) -> Iterator[_Read | None]:
    """Yield what is read of each text, in order; a few are waited for at a time, and no more are held."""
    most = 3 * (os.cpu_count() or 1)
    waited_for: deque[Future[_Read | None]] = deque()
    for text in texts:
        waited_for.append(pool.submit(read, text))
        if len(waited_for) == most:
            yield waited_for.popleft().result()
    while waited_for:
        yield waited_for.popleft().result()


def _with_room(part: _Read, rows: int) -> _Read:
    """Return what holds no rows yet, and has room for so many, of the columns of a part."""
    columns = {name: np.empty(rows) for name in part.columns}
    return part._replace(times=np.empty(rows, dtype=np.int64), columns=columns, rounded=0, symbols=[])


def _joined(before: _Read, rows: int, part: _Read) -> _Read:
    """Return what was read of so many rows with a part behind; its arrays may have room for more."""
    times = _put(before.times, rows, part.times)
    columns = {name: _put(before.columns[name], rows, values) for name, values in part.columns.items()}
    rounded, symbols = before.rounded + part.rounded, sorted({*before.symbols, *part.symbols})
    return _Read(times, columns, rounded, {}, symbols, part.time_form)


def _put(values: _Values, begin: int, part: _Values) -> _Values:
    """Return values with a part in its place; where there is no room for it, they move to twice as much."""
    end = begin + len(part)
    if len(values) < end:
        values, shorter = np.empty(2 * end, dtype=part.dtype), values
        values[:begin] = shorter[:begin]
    values[begin:end] = part
    return values


def _number_names(roles: Iterable[str]) -> list[str]:
    return [name for name in NUMBER_ROLES if name in roles]


def _read(cells: Cells, timezone: ZoneInfo | None, side_by_side: _Map, **how: bool) -> _Read:
    names = _number_names(cells)
    numbers_read = side_by_side(lambda name: read_numbers(cells[name], **how), names)
    times = read_times(cells["time"], timezone, **how)
    numbers = dict(zip(names, numbers_read, strict=True))
    return _Read(
        times.values,
        {name: column.values for name, column in numbers.items()},
        sum(column.rounded for column in numbers.values()),
        {"time": times.bad, **{name: column.bad for name, column in numbers.items()}},
        _symbols(cells),
        times.form,
    )


def _good_bars(table: Table, read: _Read) -> Bars | None:
    """Return the bars of rows that break no rule each, or None where they break one together."""
    if table.failures or any(read.bad.values()):
        return None
    times, columns, symbols = read.times, read.columns, read.symbols
    done = {}
    if len(symbols) > 1:
        return None
    if not (times[1:] > times[:-1]).all():
        order, repeats = _order_and_repeats(times, columns)
        if repeats.conflicting.any():
            return None
        done = {
            "sorted_on_load": int(np.count_nonzero(times[1:] < times[:-1])),
            "dropped_duplicates": int(np.count_nonzero(repeats.exact)),
        }
        kept = order[~repeats.exact]
        times, columns = times[kept], {name: values[kept] for name, values in columns.items()}
    index = pd.DatetimeIndex(times, tz="UTC", name="ts", copy=False)
    frame = pd.DataFrame(columns, index=index, copy=False)
    # The schema's own rules were asked of every row above; what is left to ask is the frame's form.
    frame = ohlcv.OHLCV_SCHEMA.validate(frame, lazy=True, inplace=True, head=1)
    return Bars(frame, symbols[0] if symbols else None, _notices(table, read.rounded, done))


def _notices(table: Table, rounded: int, done: dict[str, int]) -> dict[str, int]:
    notices = {
        "ignored_columns": len(table.names) - len(table.roles),
        "missing_volume": int("volume" not in table.roles),
        "rounded_to_float64": rounded,
        **table.notices,
        **done,
    }
    return {name: count for name, count in notices.items() if count}


def _symbols(cells: Cells) -> list[str]:
    if "symbol" not in cells:
        return []
    found = pc.unique(pc.cast(cells["symbol"], pa.string())).to_pylist()
    return sorted({(symbol or "").strip().upper() for symbol in found})


class _Repeats(NamedTuple):
    """Rows, in time order, whose time the row before has too: with the same values, or with others."""

    exact: npt.NDArray[np.bool_]
    conflicting: npt.NDArray[np.bool_]


def _order_and_repeats(times: Times, columns: Columns) -> tuple[Times, _Repeats]:
    # Compared and not subtracted: 1900 and 2200 are further apart than 64 bits of nanoseconds.
    none = np.zeros(len(times), dtype=bool)
    order = np.argsort(times, kind="stable")
    same_time, same_values = none, none.copy()
    same_time[1:] = times[order][1:] == times[order][:-1]
    same_values[1:] = same_time[1:]
    for values in columns.values():
        same_values[1:] &= values[order][1:] == values[order][:-1]
    return order, _Repeats(same_values, same_time & ~same_values)


# --- Failures ----------------------------------------------------------------------------------


def _refusal(table: Table, read: _Read) -> OhlcvFileError:
    """Return the error that words the first failures and counts all of them.

    No part of a table words more of its own than a message shows: a table may be wrong in every cell.
    Rules among values are asked only of rows whose cells were all read.
    """
    parts = [_bad_cells(table, role, bad) for role, bad in read.bad.items()]
    unread = np.unique([cell.row for bad in read.bad.values() for cell in bad]).astype(np.int64)
    rows = np.setdiff1d(np.arange(len(read.times)), unread)
    columns = {name: values[rows] for name, values in read.columns.items()}
    parts += [_breach(table, rows, found) for found in ohlcv.violations(columns)]
    parts += [_conflicts(table, rows, read.times[rows], columns), _second_symbols(table, read.symbols)]
    failures = table.failures + [failure for part in parts for failure in part.first]
    total = len(table.failures) + sum(part.total for part in parts)
    return refuse_all(table.path, failures, table.place_form, total=total)


class _Part(NamedTuple):
    """Failures of one sort: those that stand first, worded, and how many there are."""

    total: int
    first: list[Failure]


def _bad_cells(table: Table, role: str, bad: list[BadCell]) -> _Part:
    first = nsmallest(rules.MAX_FILE_ERRORS_LISTED, bad)
    return _Part(len(bad), [_failure(table, it.row, role, it.reason, it.found, it.needed) for it in first])


def _breach(table: Table, rows: Times, found: ohlcv.Violation) -> _Part:
    failures = []
    for row in rows[found.positions[: rules.MAX_FILE_ERRORS_LISTED]].tolist():
        cells = {role: str(table.cells[role][row]) for role in (found.column, *found.beside)}
        beside = ", ".join(f"{role} {shown(cells[role])}" for role in found.beside)
        needed = f"{found.needed} ({beside})" if beside else found.needed
        failures.append(_failure(table, row, found.column, found.reason, cells[found.column], needed))
    return _Part(len(found.positions), failures)


def _failure(table: Table, row: int, role: str, reason: str, found: str, needed: str) -> Failure:
    position = table.roles[role]
    line, column = table.place(row, position)
    return Failure(
        line, column, reason, f"{table.names[position].strip()}: found {shown(found)}, needed {needed}"
    )


def _conflicts(table: Table, rows: Times, times: Times, columns: Columns) -> _Part:
    order, repeats = _order_and_repeats(times, columns)
    at = np.flatnonzero(repeats.conflicting)
    pairs = np.sort(np.stack([rows[order[at - 1]], rows[order[at]]]), axis=0)
    first = np.argsort(pairs[1], kind="stable")[: rules.MAX_FILE_ERRORS_LISTED]
    failures = []
    for earlier, later in pairs[:, first].T.tolist():
        line, _ = table.place(earlier, table.roles["time"])
        found, needed = (
            str(table.cells["time"][later]),
            f"one row a time: line {line} has other values for it",
        )
        failures.append(_failure(table, later, "time", Refusal.CONFLICTING_DUPLICATE, found, needed))
    return _Part(len(at), failures)


def _second_symbols(table: Table, symbols: list[str]) -> _Part:
    """Return the first row of each symbol after the first."""
    if len(symbols) < 2:
        return _Part(0, [])
    seen: dict[str, int] = {}
    for row, symbol in enumerate(pc.cast(table.cells["symbol"], pa.string()).to_pylist()):
        seen.setdefault((symbol or "").strip().upper(), row)
    first, *others = seen.items()
    needed = f"only {shown(first[0])} as in the first row. Split the file by symbol"
    listed = others[: rules.MAX_FILE_ERRORS_LISTED]
    return _Part(
        len(others),
        [_failure(table, row, "symbol", Refusal.MIXED_SYMBOLS, symbol, needed) for symbol, row in listed],
    )
