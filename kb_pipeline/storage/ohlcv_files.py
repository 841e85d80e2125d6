"""Read price files: CSV, JSON and Parquet, checked as a whole before anybody sees a bar.

The way of a file: `ohlcv_source` opens it and holds its bytes, one module per format cuts them
into cells, `ohlcv_cells` reads those, `ohlcv_table` makes bars of them, and here the bars are held
against the timeframe and given a symbol. A bad file is refused with all of its failures.

A CSV file is first proved to be good while it is read, in parts of which no text is kept. Where that
fails it is read again as a whole, and line by line everything that is wrong is found.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from kb_pipeline import rules
from kb_pipeline.domain.ohlcv import bar_times_ns
from kb_pipeline.errors import BadArgumentError, OhlcvFileError
from kb_pipeline.storage.events import Event, tell
from kb_pipeline.storage.ohlcv_csv import PART_BYTES, cut_at_once, cut_by_line, whole_lines
from kb_pipeline.storage.ohlcv_failures import Refusal, refuse, shown
from kb_pipeline.storage.ohlcv_json import read_json, read_ndjson
from kb_pipeline.storage.ohlcv_parquet import read_parquet
from kb_pipeline.storage.ohlcv_source import Source, read_lines, read_source
from kb_pipeline.storage.ohlcv_table import Bars, bars_from_parts, bars_from_table

_BARS_AT_ONCE: Final = 1 << 16

_TICKER: Final = re.compile(r"[A-Z0-9.^=-]{1,15}")


@dataclass(frozen=True, slots=True)
class OhlcvFile:
    """A price file that passed every check.

    `frame` is a bars frame (see `domain.ohlcv`). `symbol` is upper case, None where neither the
    caller nor a column nor the file's name says it. `sha256` is that of the bytes on disk.
    `notices` counts what a reader should know: dropped_duplicates, sorted_on_load (rows older than
    the row before), ignored_columns, missing_volume, rounded_to_float64, blank_lines.
    """

    path: Path
    frame: pd.DataFrame
    symbol: str | None
    sha256: str
    notices: dict[str, int]


def read_ohlcv_file(
    path: str | Path,
    *,
    timezone: str | None = None,
    timeframe: str | None = None,
    symbol: str | None = None,
    data_root: Path | None = None,
) -> OhlcvFile:
    """Return the bars of one file.

    Args:
        path: .csv, .txt, .json, .ndjson or .jsonl, each also .gz, or .parquet.
        timezone: Zone of times that name none; UTC by default.
        timeframe: The bars must be that far apart, a key of `rules.TIMEFRAMES_SECONDS`.
        symbol: What the bars are of; by default the file's symbol column or its name says it.
        data_root: Refuse a file that does not lie under this directory.

    Raises:
        OhlcvFileError: The file is refused; the error holds every failure found.
        BadArgumentError: The time zone or the timeframe is unknown.
    """
    zone = _zone(timezone)
    if timeframe is not None and timeframe not in rules.TIMEFRAMES_SECONDS:
        known = ", ".join(rules.TIMEFRAMES_SECONDS)
        raise BadArgumentError(f"found the timeframe {shown(timeframe)}, needed one of {known}")
    try:
        bars, sha256 = _read(path, data_root, zone)
        if timeframe is not None:
            _refuse_other_timeframe(path, bar_times_ns(bars.frame), timeframe)
        return OhlcvFile(
            Path(path), bars.frame, _symbol(Path(path), symbol, bars.symbol), sha256, bars.notices
        )
    except OhlcvFileError as error:
        tell(Event.PRICE_FILE_REFUSED, path=error.path, reason=error.reason, failures=error.total)
        raise


def _read(path: str | Path, data_root: Path | None, timezone: ZoneInfo | None) -> tuple[Bars, str]:
    """Return the bars of a file and the SHA-256 of its bytes."""
    is_csv = Path(path).suffix.lower() in (".csv", ".txt")
    if is_csv:
        digest = hashlib.sha256()
        with closing(read_lines(path, data_root, PART_BYTES, digest.update)) as texts:
            bars = _bars_at_once(Path(path), texts, _size_bytes(path), timezone)
        if bars:
            return bars, digest.hexdigest()
    source = read_source(path, data_root)
    bars = bars_from_table(cut_by_line(source), timezone) if is_csv else bars_from_source(source, timezone)
    return bars, source.sha256()


def bars_from_source(source: Source, timezone: ZoneInfo | None, *, exact: bool = False) -> Bars:
    """Return the bars of a file's bytes.

    Args:
        source: The bytes and their format.
        timezone: Zone of times that name none; UTC by default.
        exact: Read CSV line by line and every file cell by cell from the start; for tests.

    Raises:
        OhlcvFileError: With every failure of the file.
    """
    if source.format == "csv":
        data = source.data
        bars = None if exact else _bars_at_once(source.path, whole_lines(data), len(data), timezone)
        return bars or bars_from_table(cut_by_line(source), timezone, exact=exact)
    readers = {"json": read_json, "ndjson": read_ndjson, "parquet": read_parquet}
    return bars_from_table(readers[source.format](source), timezone, exact=exact)


def _size_bytes(path: str | Path) -> int:
    with suppress(OSError, ValueError):
        return Path(path).stat().st_size
    return 0


def _bars_at_once(
    path: Path, texts: Iterable[bytes], size_bytes: int, timezone: ZoneInfo | None
) -> Bars | None:
    """Prove that the lines of a CSV file are good bars, or return None: what is wrong is found elsewhere."""
    try:
        parts = cut_at_once(path, texts, size_bytes)
        return None if parts is None else bars_from_parts(parts, timezone)
    except OhlcvFileError as error:
        if error.reason == Refusal.CHANGED_WHILE_READING:
            raise
        return None


def _zone(timezone: str | None) -> ZoneInfo | None:
    if timezone is None:
        return None
    try:
        return ZoneInfo(timezone)
    except (ValueError, OSError, KeyError):
        raise BadArgumentError(
            f"found the time zone {shown(timezone)}, needed a name such as America/New_York"
        ) from None


def _refuse_other_timeframe(
    path: str | Path, times_ns: np.ndarray[tuple[int], np.dtype[np.int64]], timeframe: str
) -> None:
    """Refuse bars whose distances contradict the timeframe; a single bar contradicts none."""
    if len(times_ns) < 2:
        return
    uses = _step_uses(times_ns)
    nearest, commonest = min(uses), max(sorted(uses), key=lambda step: uses[step])
    wanted = rules.TIMEFRAMES_SECONDS[timeframe]
    if timeframe == "1d":
        near, far = nearest < rules.MIN_DAILY_STEP_SECONDS, commonest > rules.MAX_DAILY_STEP_SECONDS
        # Weeks or months between most bars; two steps prove nothing, there may be holidays in them.
        fits = not near and not (far and len(times_ns) > 3)
        found = f"bars only {_duration(nearest)} apart"
        if not near:
            found = f"bars mostly {commonest / wanted:g}d apart"
    else:
        # Two bars with a night between them may be of any timeframe up to a night.
        fits = commonest == wanted or (len(times_ns) == 2 and commonest > wanted)
        found = f"bars mostly {_duration(commonest)} apart"
    if not fits:
        advice = "Give the file's own timeframe"
        raise refuse(path, Refusal.TIMEFRAME_MISMATCH, f"found {found}, needed bars of {timeframe}. {advice}")


def _step_uses(times_ns: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Counter[int]:
    """Return how often each distance in seconds occurs; bars are taken in parts that stay in the cache."""
    uses: Counter[int] = Counter()
    for begin in range(0, len(times_ns) - 1, _BARS_AT_ONCE):
        steps = np.diff(times_ns[begin : begin + _BARS_AT_ONCE + 1] // 10**9)
        distances, counts = np.unique(steps, return_counts=True)
        uses.update(dict(zip(distances.tolist(), counts.tolist(), strict=True)))
    return uses


def _duration(seconds: int) -> str:
    return next(
        (name for name, length in rules.TIMEFRAMES_SECONDS.items() if length == seconds), f"{seconds} s"
    )


def _symbol(path: Path, given: str | None, in_column: str | None) -> str | None:
    if given and in_column and given.upper() != in_column:
        found = f"found the symbol {shown(in_column)}, needed {shown(given.upper())}"
        raise refuse(path, Refusal.SYMBOL_MISMATCH, f"{found}. Give the file of that symbol")
    named = given or in_column
    return named.upper() if named else symbol_in_name(path)


def symbol_in_name(path: Path) -> str | None:
    """Return AAPL for AAPL_1d.csv.gz, aapl_1d.csv and AAPL.csv, None for a name such as export.csv."""
    stem = Path(path.name.removesuffix(".gz")).stem
    ticker, _, rest = stem.partition("_")
    if rest.lower() in rules.TIMEFRAMES_SECONDS:
        stem = ticker.upper()
    return stem if _TICKER.fullmatch(stem) else None
