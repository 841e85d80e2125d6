"""Cut a CSV file into cells.

Arrow cuts it in large parts where the file is plain: no quotes, no odd line ends. Otherwise, and
where Arrow stumbles, it is cut line by line, and every line that has another number of fields, a
control character or a quote that does not close is named.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv

from kb_pipeline.storage.ohlcv_cells import FLOAT64_DIGITS
from kb_pipeline.storage.ohlcv_failures import Failure, Refusal, refuse, refuse_all, shown
from kb_pipeline.storage.ohlcv_source import Source
from kb_pipeline.storage.ohlcv_table import NUMBER_ROLES, Cells, Parts, Table, column_roles

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""Control characters but the tab. A line feed cannot occur inside a line."""

_CONTROL_BYTES: Final = bytes([*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])

_BLANKS: Final = " \t"

_FOUR_TRUE: Final = np.uint32(0x01010101)

_OTHER_DELIMITERS: Final = {";": "semicolons", "\t": "tabs", "|": "bars"}


# --- At once -----------------------------------------------------------------------------------

PART_BYTES: Final = 2 << 20
"""Text cut by one call: little enough for a core's cache, enough for the calls themselves not to count.

The cells of a whole large file at once take fresh memory, which cost more than the cutting.
"""

_MORE_THAN_ENOUGH: Final = 1.25
"""Rows that room is made for, to those that the first part lets expect: room left over costs nothing."""


def cut_at_once(path: Path, texts: Iterable[bytes], size_bytes: int) -> Parts | None:
    """Return what cuts a plain CSV file part by part, or None where it must be looked at line by line.

    The parts know no lines: the file either holds good bars, or is cut again by line.

    Args:
        path: The file, for messages.
        texts: Whole lines of it, many at a time.
        size_bytes: Of all of them, as far as is known.

    Raises:
        OhlcvFileError: The header cannot be used, or whoever gives the texts raises it.
    """
    remaining = iter(texts)
    first = next(remaining, b"")
    header_end = first.find(b"\n") + 1
    header = first[:header_end].decode("utf-8").removesuffix("\n").removesuffix("\r")
    if not header.strip() or _CONTROL.search(header):
        return None
    names = _header(path, header, line=1)
    roles = column_roles(path, names)
    rows = filter(None, chain([first[header_end:]], remaining))
    expected_rows = int(_MORE_THAN_ENOUGH * first.count(b"\n") * size_bytes / len(first))
    table = Table(path, names, roles, {})
    return Parts(table, expected_rows, rows, partial(_part_cells, len(names), roles))


def whole_lines(data: bytes | bytearray) -> Iterator[bytes]:
    """Yield the lines of a text that is held already, many at a time."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", min(start + PART_BYTES, len(data) - 1)) + 1 or len(data)
        with memoryview(data)[start:end] as lines:
            yield bytes(lines)
        start = end


def _is_plain(text: bytes, *, wholly: bool) -> bool:
    """Return whether lines hold neither quotes nor odd ends nor, where columns are ignored, controls."""
    unix_or_windows_ends = b"\r" not in text or text.count(b"\r") == text.count(b"\r\n")
    holds_control = not wholly and len(text.translate(None, _CONTROL_BYTES)) < len(text)
    return text.endswith(b"\n") and unix_or_windows_ends and b'"' not in text and not holds_control


def _part_cells(fields: int, roles: dict[str, int], text: bytes) -> Cells | None:
    """Return the cells of some lines: numbers as such where that says all, else as text."""
    # What stands in a column that plays no role is never looked at again.
    if not _is_plain(text, wholly=len(roles) == fields):
        return None
    # Arrow takes a tab beside a number for a blank; digits that a float64 cannot hold are counted.
    wants_text = b"\t" in text or _has_long_numbers(text)
    for kind in [pa.string()] if wants_text else [pa.float64(), pa.string()]:
        try:
            return _arrow_cells(text, fields, roles, kind)
        except pa.ArrowInvalid:
            continue
    return None


def _has_long_numbers(text: bytes) -> bool:
    """Return whether somewhere more digits (and points) follow each other than a float64 can need."""
    distance = np.frombuffer(text, np.uint8) - np.uint8(ord("."))
    run = np.less(distance, np.uint8(12), out=distance.view(np.bool_))  # . / and the ten digits
    # So many in a row fill three words of four bytes, which is quickly ruled out.
    words = run[: len(run) // 4 * 4].view(np.uint32) == _FOUR_TRUE
    if not (words[:-2] & words[1:-1] & words[2:]).any():
        return False
    length, longest = 1, FLOAT64_DIGITS + 1
    while length < longest:
        step = min(length, longest - length)
        run, length = run[:-step] & run[step:], length + step
    return bool(run.any())


def _arrow_cells(text: bytes, fields: int, roles: dict[str, int], numbers: pa.DataType) -> Cells:
    # Times and symbols stay texts: what Arrow takes for a null or a time is wider than our rules. Of numbers
    # it reads what its cast of a text reads, blanks around them, and nan and inf, which are refused later.
    columns = [str(position) for position in range(fields)]
    kinds = {str(at): numbers if role in NUMBER_ROLES else pa.string() for role, at in roles.items()}
    found = pyarrow.csv.read_csv(
        pa.BufferReader(pa.py_buffer(text)),
        read_options=pyarrow.csv.ReadOptions(
            column_names=columns, use_threads=False, block_size=len(text) + 1
        ),
        parse_options=pyarrow.csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=kinds, include_columns=list(kinds), null_values=[], strings_can_be_null=False
        ),
    )
    return dict(zip(roles, found.columns, strict=True))


# --- Line by line ------------------------------------------------------------------------------


def cut_by_line(source: Source) -> Table:
    """Return the cells of any CSV file, with a failure for each line that cannot be cut.

    Raises:
        OhlcvFileError: The header cannot be used, or no row follows it.
    """
    lines = [line.removesuffix("\r") for line in source.data.decode("utf-8").split("\n")]
    unterminated = lines[-1].strip(_BLANKS) != ""
    if not unterminated:
        lines.pop()
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip(_BLANKS)]
    header_line, header = numbered[0]
    names = _header(source.path, header, header_line)
    roles = column_roles(source.path, names)
    if len(numbered) == 1:
        raise refuse(source.path, Refusal.NO_BARS, "found a header and no rows, needed at least one bar")
    kept, columns, failures = _columns(numbered[1:], len(names), list(roles.values()))
    if unterminated:
        failures.append(_cut_short(numbered[-1]))
    return Table(
        source.path,
        names,
        roles,
        dict(zip(roles, columns, strict=True)),
        lambda row, position: (kept[row], position + 1),
        notices={"blank_lines": len(lines) - len(numbered)},
        failures=failures,
    )


def _columns(
    numbered: list[tuple[int, str]], fields: int, wanted: list[int]
) -> tuple[list[int], list[pa.ChunkedArray], list[Failure]]:
    """Return the numbers of the good lines, their wanted columns, and what is wrong with the others."""
    kept: list[int] = []
    failures: list[Failure] = []
    # A list kept for each of a million lines makes the garbage collector most of the work.
    columns: list[tuple[int, list[str]]] = [(position, []) for position in wanted]
    for number, line in numbered:
        cells = _fields(line, number)
        if isinstance(cells, Failure):
            failures.append(cells)
        elif len(cells) != fields:
            text = f"found {len(cells)} fields, needed {fields} as in the header. Correct or remove the line"
            failures.append(Failure(number, min(len(cells), fields + 1), Refusal.FIELD_COUNT, text))
        else:
            kept.append(number)
            for position, column in columns:
                column.append(cells[position])
    return kept, [pa.chunked_array([pa.array(column, pa.string())]) for _, column in columns], failures


def _fields(line: str, number: int) -> list[str] | Failure:
    control = _CONTROL.search(line)
    if control:
        text = f"found the control character {shown(control[0])}, needed plain text. Remove it"
        return Failure(number, line.count(",", 0, control.start()) + 1, Refusal.CONTROL_CHARACTER, text)
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error:
        text = "found a quote that does not close in its line, or stands inside a field. Remove the quotes"
        return Failure(number, line.count(",", 0, line.index('"')) + 1, Refusal.QUOTING, text)


def _cut_short(last: tuple[int, str]) -> Failure:
    number, line = last
    text = f"found {shown(line)} without a line end, needed one: the file may be cut short. Fetch it again"
    return Failure(number, line.count(",") + 1, Refusal.UNTERMINATED_LAST_LINE, text)


def _header(path: Path, header: str, line: int) -> list[str]:
    if "," not in header:
        for delimiter, name in _OTHER_DELIMITERS.items():
            if delimiter in header:
                text = f"found {name} between the columns, needed commas. Save the file comma-separated"
                raise refuse(path, Refusal.DELIMITER, text)
    names = _fields(header, line)
    if isinstance(names, Failure):
        raise refuse_all(path, [names])
    return names
