"""Take the columns of a Parquet file.

Only plain columns are read: no nested ones and no extension types, whose readers may run code that
the file brings along. That is decided from the file's footer, before Arrow reconstructs any type.
"""

import base64
import binascii
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kb_pipeline import rules
from kb_pipeline.storage.ohlcv_failures import Refusal, refuse
from kb_pipeline.storage.ohlcv_source import Source
from kb_pipeline.storage.ohlcv_table import Table, column_roles, is_time

_ARROW_SCHEMA: Final = b"ARROW:schema"
_EXTENSION: Final = b"ARROW:extension"
_BYTES_A_CELL: Final = 8
_PANDAS_INDEX: Final = "__index_level_0__"
"""What pandas calls the index of a frame where it has no name of its own."""


def read_parquet(source: Source) -> Table:
    """Return the columns of a Parquet file that play a role; places are rows, counted from 1.

    Raises:
        OhlcvFileError: It is not Parquet, holds other than plain columns, or no bars.
    """
    try:
        return _read(source)
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        found = str(error).partition("\n")[0][:120]
        text = f"found bytes that are not a readable Parquet file ({found!a}). Write it again"
        raise refuse(source.path, Refusal.BINARY_FILE, text) from None


def _read(source: Source) -> Table:
    buffer = pa.py_buffer(source.data)
    footer = pq.read_metadata(pa.BufferReader(buffer))
    _refuse_extensions(source.path, footer)
    names = [footer.schema.column(position).path for position in range(footer.num_columns)]
    _refuse_nested(source.path, footer.schema, names)
    labels = _with_unnamed_index(footer.schema, names)
    roles = column_roles(source.path, labels)
    if not footer.num_rows:
        raise refuse(source.path, Refusal.NO_BARS, "found columns and no rows, needed at least one bar")
    _refuse_bomb(source.path, footer, len(roles))
    table = pq.ParquetFile(pa.BufferReader(buffer)).read(
        columns=[names[position] for position in roles.values()]
    )
    table.validate(full=True)
    cells = {role: _plain(table.column(names[position])) for role, position in roles.items()}
    return Table(
        source.path,
        labels,
        roles,
        cells,
        place_form="{path}: row {line}, column {field}",
    )


def _refuse_extensions(path: Path, footer: pq.FileMetaData) -> None:
    encoded = (footer.metadata or {}).get(_ARROW_SCHEMA, b"")
    try:
        holds_extension = _EXTENSION in base64.b64decode(encoded)
    except binascii.Error:
        holds_extension = True
    if holds_extension:
        text = (
            "found a column of an extension type, which is never loaded. Store plain numbers and timestamps"
        )
        raise refuse(path, Refusal.BINARY_FILE, text)


def _refuse_nested(path: Path, schema: pq.ParquetSchema, names: list[str]) -> None:
    nested = [name for position, name in enumerate(names) if schema.column(position).name != name]
    if nested:
        text = f"found the nested column {nested[0]!a}, needed plain columns. Flatten or drop it"
        raise refuse(path, Refusal.BINARY_FILE, text)


def _with_unnamed_index(schema: pq.ParquetSchema, names: list[str]) -> list[str]:
    """Return the names with pandas' unnamed index of times as `time`, unless something else is the time."""
    if _PANDAS_INDEX not in names or any(is_time(name) for name in names):
        return names
    holds_times = schema.column(names.index(_PANDAS_INDEX)).logical_type.type == "TIMESTAMP"
    return ["time" if holds_times and name == _PANDAS_INDEX else name for name in names]


def _refuse_bomb(path: Path, footer: pq.FileMetaData, columns: int) -> None:
    packed = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
    unpacked = max(packed, footer.num_rows * columns * _BYTES_A_CELL)
    if unpacked > rules.MAX_OHLCV_FILE_BYTES:
        limit = f"{rules.MAX_OHLCV_FILE_BYTES:,}"
        raise refuse(
            path, Refusal.TOO_LARGE, f"unpacks to more than {limit} bytes, the most that is read. Split it"
        )


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as texts unless its values are numbers or timestamps already."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_timestamp(kind):
        return column
    return pc.cast(column, pa.string())
