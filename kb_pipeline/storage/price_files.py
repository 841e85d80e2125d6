"""Find the price files of the data root by symbol and bar length, and keep normalised copies of them.

A price file lies in `<data root>/ohlcv` and is named like AAPL_1d.csv. Its copy is Parquet under
`.kb/ohlcv` and remembers the SHA-256 of the file it was made from. What a file holds is read and
checked in `ohlcv_files`.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kb_pipeline.errors import BadArgumentError
from kb_pipeline.rules import TIMEFRAMES_SECONDS
from kb_pipeline.storage.ohlcv_files import OhlcvFile, symbol_in_name
from kb_pipeline.storage.paths import kb_home

_SUFFIXES: Final = frozenset({".csv", ".txt", ".json", ".ndjson", ".jsonl", ".parquet"})
_SOURCE_HASH: Final = b"kb_source_sha256"

LISTING_SETTLES_AFTER_SECONDS: Final = 5
"""The coarsest clocks of file systems in use step by two seconds."""


class PriceFile(NamedTuple):
    """One file of prices: of which symbol (upper case), bars of which length."""

    path: Path
    symbol: str
    timeframe: str


def list_price_files(root: Path) -> list[PriceFile]:
    """Return the price files under a data root by symbol, shortest bars first; other files are ignored.

    Raises:
        BadArgumentError: The directory is not there, which must never look like one without files.
    """
    directory = root / "ohlcv"
    try:
        found = list(_price_files(directory))
    except OSError as error:
        raise _unreadable(directory, error) from None
    return sorted(found, key=lambda file: (file.symbol, TIMEFRAMES_SECONDS[file.timeframe], file.path))


def _price_files(directory: Path) -> Iterator[PriceFile]:
    with os.scandir(directory) as entries:
        for entry in entries:
            stem, dot, suffix = entry.name.removesuffix(".gz").rpartition(".")
            symbol, _, timeframe = stem.rpartition("_")
            is_named = symbol and timeframe in TIMEFRAMES_SECONDS and dot + suffix in _SUFFIXES
            if is_named and _is_file(entry):
                yield PriceFile(Path(entry.path), symbol.upper(), timeframe)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Not a pipe, which would be waited for, nor a link to nothing; only a link is looked at any closer."""
    return entry.is_file(follow_symlinks=False) or (entry.is_symlink() and Path(entry.path).is_file())


def listing_state(root: Path, now_seconds: float) -> str | None:
    """Return what changes when a price file comes, goes or is renamed; None where one may have just now.

    Two changes within one step of the file system's clock leave one time.

    Raises:
        BadArgumentError: The directory is not there.
    """
    directory = root / "ohlcv"
    try:
        status = directory.stat()
    except OSError as error:
        raise _unreadable(directory, error) from None
    is_settled = now_seconds - status.st_ctime > LISTING_SETTLES_AFTER_SECONDS
    return f"{directory} {status.st_dev} {status.st_ino} {status.st_ctime_ns}" if is_settled else None


def _unreadable(directory: Path, error: OSError) -> BadArgumentError:
    return BadArgumentError(
        f"{directory}: could not be read: {error.strerror}. Make it, or let KB_DATA_ROOT name its parent."
    )


def other_name(path: Path, symbol: str | None) -> list[str]:
    """Return a note that a file's name says another symbol than was given for it, which wins; else none."""
    named = symbol_in_name(path)
    if symbol is None or named in (None, symbol.upper()):
        return []
    return [f"The file is named for {named}; its bars were taken as {symbol.upper()}'s, as --symbol says."]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def normalised_path(file: PriceFile) -> Path:
    """Return where the normalised copy of a price file lies; it may not exist yet."""
    return kb_home() / "ohlcv" / f"{file.symbol}_{file.timeframe}.parquet"


def write_normalised(file: PriceFile, read: OhlcvFile) -> Path:
    """Write the bars of a checked file as Parquet, whole or not at all, and return where."""
    path = normalised_path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pandas(read.frame)
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), _SOURCE_HASH: read.sha256.encode()}
    )
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    pq.write_table(table, unfinished)
    unfinished.replace(path)
    return path


def read_normalised(file: PriceFile) -> pd.DataFrame | None:
    """Return the bars of the normalised copy, None where there is none."""
    path = normalised_path(file)
    return pq.read_table(path).to_pandas() if path.exists() else None


def normalised_from(file: PriceFile) -> str | None:
    """Return the SHA-256 of the file that the normalised copy was made from, None without a copy."""
    path = normalised_path(file)
    if not path.exists():
        return None
    found = (pq.read_schema(path).metadata or {}).get(_SOURCE_HASH)
    return found.decode() if found else None
