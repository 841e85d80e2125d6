"""Cut a JSON file into cells.

Understood are an array of records, an object of columns (each an array, or an object with the same
keys in each; those keys are the times where no time column is named), and one record a line.
Numbers stay the text they were written as, so that they are read by the rules of every file.
"""

import bisect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from kb_pipeline.errors import OhlcvFileError
from kb_pipeline.storage.ohlcv_failures import Failure, Refusal, refuse, refuse_all, shown
from kb_pipeline.storage.ohlcv_source import Source
from kb_pipeline.storage.ohlcv_table import Table, column_roles

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_WORDS: Final = {True: "true", False: "false", None: "null"}

_ADVICE: Final = (
    'needed an array of records like {"timestamp": ..., "open": ..., "high": ..., "low": ..., "close": ...}'
)


class _RepeatedKeyError(Exception):
    """A key stands twice in one object, so that one of its values would be lost."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return members


_DECODER: Final = json.JSONDecoder(
    parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=_object
)


def read_json(source: Source) -> Table:
    """Return the cells of a JSON file.

    Raises:
        OhlcvFileError: It is not JSON, or not of a known shape, or holds no bars.
    """
    text = source.data.decode("utf-8")
    document = _decoded(text, line=1)
    if isinstance(document, Failure):
        raise refuse_all(source.path, [document])
    if isinstance(document, list):
        return _from_records(source.path, document, lambda: _element_starts(text, text.index("[")), text)
    if isinstance(document, dict):
        return _from_columns(source.path, document, text)
    raise refuse(source.path, Refusal.JSON_SHAPE, f"found {shown(_cell(document))}, {_ADVICE}")


def read_ndjson(source: Source) -> Table:
    """Return the cells of a file with one JSON record a line; blank lines are passed over.

    Raises:
        OhlcvFileError: A line is not JSON, or the records are not price bars.
    """
    text = source.data.decode("utf-8")
    records, starts, start = [], [], 0
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            records.append(_decoded(line, line=number))
            starts.append(start + len(line) - len(line.lstrip()))
        start += len(line) + 1
    failures = [record for record in records if isinstance(record, Failure)]
    if failures:
        raise refuse_all(source.path, failures)
    return _from_records(source.path, records, lambda: starts, text)


def _decoded(text: str, line: int) -> Any:
    """Return a document, or what is wrong with it; `line` is where it begins in its file."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        found = f"found no JSON: {error.msg}. Write the file again with a JSON library"
        if error.msg == "Extra data":
            found = "found more after the JSON ended. Name a file with one record a line .ndjson or .jsonl"
        return Failure(line + error.lineno - 1, error.colno, Refusal.JSON_SYNTAX, found)
    except RecursionError:
        return Failure(line, 1, Refusal.JSON_SHAPE, f"found deeply nested JSON, {_ADVICE}")
    except _RepeatedKeyError as error:
        found = f"found an object with the key {shown(error)} twice, needed it once"
        return Failure(line, 1, Refusal.DUPLICATE_COLUMNS, found)


# --- Records -----------------------------------------------------------------------------------


def _from_records(path: Path, records: list[Any], starts: Callable[[], list[int]], text: str) -> Table:
    if not records:
        raise refuse(path, Refusal.NO_BARS, "found no records, needed at least one bar")
    if not isinstance(records[0], dict):
        raise refuse(
            path, Refusal.JSON_SHAPE, f"found {shown(_cell(records[0]))} as the first record, {_ADVICE}"
        )
    names = list(records[0])
    roles = column_roles(path, names)
    place = _RecordPlaces(text, starts, names)
    wanted = [names[position] for position in roles.values()]
    odd = [
        row
        for row, record in enumerate(records)
        if not isinstance(record, dict) or not record.keys() >= set(wanted)
    ]
    if odd:
        raise refuse_all(path, [_odd_record(records[row], wanted, *place.record(row)) for row in odd])
    cells = {
        role: _column([record[names[position]] for record in records]) for role, position in roles.items()
    }
    return Table(path, names, roles, cells, place)


def _odd_record(record: Any, wanted: list[str], line: int, column: int) -> Failure:
    if not isinstance(record, dict):
        return Failure(line, column, Refusal.JSON_SHAPE, f"found {shown(_cell(record))}, {_ADVICE}")
    missing = ", ".join(shown(name) for name in wanted if name not in record)
    return Failure(
        line, column, Refusal.FIELD_COUNT, f"found a record without {missing}, needed it as in the first"
    )


class _RecordPlaces:
    """Finds the line and column of a value again; asked only for what a message shows."""

    def __init__(self, text: str, starts: Callable[[], list[int]], names: list[str]) -> None:
        self._text, self._find_starts, self._names = text, starts, names
        self._starts: list[int] = []
        self._lines: list[int] = []

    def record(self, row: int) -> tuple[int, int]:
        """Return where a record begins."""
        self._find()
        return _place(self._lines, self._starts[row])

    def _find(self) -> None:
        if not self._starts:
            self._starts = self._find_starts()
            self._lines = _line_starts(self._text)

    def __call__(self, row: int, position: int) -> tuple[int, int]:
        self._find()
        end = self._starts[row + 1] if row + 1 < len(self._starts) else len(self._text)
        return _place(self._lines, _value_start(self._text, self._names[position], self._starts[row], end))


def _element_starts(text: str, array_start: int) -> list[int]:
    """Return where each element of the array that opens at `array_start` begins."""
    return list(_elements(text, array_start + 1))


def _elements(text: str, position: int) -> Iterator[int]:
    position = _after_space(text, position)
    while text[position] != "]":
        yield position
        _, position = _DECODER.raw_decode(text, position)
        position = _after_space(text, position)
        if text[position] == ",":
            position = _after_space(text, position + 1)


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _value_start(text: str, name: str, start: int, end: int) -> int:
    """Return where the value of a key begins, or the record where the key is written in escapes."""
    match = re.compile(rf'"{re.escape(name)}"\s*:\s*').search(text, start, end)
    return match.end() if match else start


def _line_starts(text: str) -> list[int]:
    return [0, *(match.end() for match in re.finditer("\n", text))]


def _place(line_starts: list[int], offset: int) -> tuple[int, int]:
    line = bisect.bisect_right(line_starts, offset)
    return line, offset - line_starts[line - 1] + 1


# --- Columns -----------------------------------------------------------------------------------


def _from_columns(path: Path, columns: dict[str, Any], text: str) -> Table:
    values = {name: _column_values(value) for name, value in columns.items()}
    lengths = {len(column) for column in values.values() if column is not None}
    if None in values.values() or len(lengths) != 1:
        raise refuse(
            path,
            Refusal.JSON_SHAPE,
            f"found an object whose members are not columns of one length, {_ADVICE}",
        )
    try:
        roles = column_roles(path, list(columns))
    except OhlcvFileError:
        # pandas writes the index of a frame as the keys of each column.
        values, roles = _with_keys_as_times(path, columns, values)
    if lengths == {0}:
        raise refuse(path, Refusal.NO_BARS, "found empty columns, needed at least one bar")
    names = list(values)
    line_starts = _line_starts(text)

    def place(row: int, position: int) -> tuple[int, int]:
        return _place(line_starts, _member_start(text, names[position], row))

    cells = {role: _column(values[names[position]] or []) for role, position in roles.items()}
    return Table(path, names, roles, cells, place)


def _column_values(value: Any) -> list[Any] | None:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else None


def _with_keys_as_times(
    path: Path, columns: dict[str, Any], values: dict[str, list[Any] | None]
) -> tuple[dict[str, list[Any] | None], dict[str, int]]:
    first = next(iter(columns.values()))
    same_keys = isinstance(first, dict) and all(list(column) == list(first) for column in columns.values())
    if not same_keys:
        missing = f"found an object with the members {shown(', '.join(columns))}, {_ADVICE}"
        raise refuse(path, Refusal.JSON_SHAPE, missing)
    values = {"timestamp": list(first), **values}
    return values, column_roles(path, list(values))


def _member_start(text: str, name: str, row: int) -> int:
    start = _value_start(text, name, 0, len(text))
    if text[start : start + 1] != "[":
        return start
    return _element_starts(text, start)[row]


# --- Cells -------------------------------------------------------------------------------------


def _column(values: list[Any]) -> pa.ChunkedArray:
    texts = [value if type(value) is str else _cell(value) for value in values]
    try:
        return pa.chunked_array([pa.array(texts, pa.string())])
    except UnicodeEncodeError:
        # JSON can escape half of a character pair, which no UTF-8 text can hold.
        whole = [text.encode("utf-8", "backslashreplace").decode() for text in texts]
        return pa.chunked_array([pa.array(whole, pa.string())])


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    return _WORDS[value]
