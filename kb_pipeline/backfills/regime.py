"""The regime backfill: compute the snapshot of each run's own out-of-sample window from a price file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import compress
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from kb_pipeline.backfills.engine import Decisions, Page, Rows, Watch, run_backfill
from kb_pipeline.backfills.report import BackfillReport, OhlcvSource, Tally
from kb_pipeline.domain.calendars import CoverageIndex, market
from kb_pipeline.domain.ohlcv import bar_times_ns
from kb_pipeline.domain.regime import compute_regime_snapshots
from kb_pipeline.domain.windowed_bars import NS_PER_DAY, CheckedWindows, WindowedBars
from kb_pipeline.domain.windows import RunWindows, run_windows
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.rules import (
    BATCH_SIZE_ROWS,
    MIN_COVERAGE_FRACTION,
    REGIME_LIMIT_ROWS,
    BackfillKind,
    SkipReason,
)
from kb_pipeline.storage import backtest_runs, session
from kb_pipeline.storage.backfill_runs import Span
from kb_pipeline.storage.ohlcv_files import OhlcvFile, read_ohlcv_file
from kb_pipeline.storage.orchestration import waiting_symbols
from kb_pipeline.storage.paths import symbols_file
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.price_files import other_name
from kb_pipeline.storage.session import in_its_workspace
from kb_pipeline.storage.symbols import SymbolInfo, load_symbols

Positions = npt.NDArray[np.int64]

_META_FIELDS: Final = (
    "oos_start",
    "oos_end",
    "oos",
    "is_start",
    "is_end",
    "is",
    "oos_ratio",
    "date_min",
    "date_max",
)
_PARAMS_FIELDS: Final = ("oos_start", "oos_end", "is_start", "is_end", "oos_ratio")
"""The fields of `dataset_meta` and `params` in the order the page statement lists them."""

_NAMED_SYMBOLS: Final = 20
_REMEMBERED_WINDOWS: Final = 50_000
"""Window texts whose reading is kept; beyond that memory would grow with the rows scanned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegimeRequest:
    """What to backfill from which price file.

    `symbol` picks the runs of one symbol, whatever the file says of itself. `calendar` overrides
    that of symbols.yaml, `timezone` is that of times without one in the file, `limit` counts
    scanned runs (None: all), `batch_size` the runs written in one transaction, `part` is for the holder of
    a lease on those rows.
    """

    workspace_id: UUID
    ohlcv_file: Path
    symbol: str | None = None
    timeframe: str = "1d"
    since: datetime | None = None
    limit: int | None = REGIME_LIMIT_ROWS
    calendar: str | None = None
    timezone: str | None = None
    min_coverage: float = MIN_COVERAGE_FRACTION
    batch_size: int = BATCH_SIZE_ROWS
    from_start: bool = False
    data_root: Path | None = None
    part: Span | None = None


@in_its_workspace
def backfill_regime(
    connection: Connection, request: RegimeRequest, *, dry_run: bool, watch: Watch | None = None
) -> BackfillReport:
    """Write the regime of each run's own window, or count what would be written.

    Raises:
        OhlcvFileError: The price file is refused; nothing was written.
        BadArgumentError: The symbol or its calendar is not known.
        AlreadyRunningError: Another process is at it.
        ConservationError: The counts do not add up.
    """
    file = read_ohlcv_file(
        request.ohlcv_file,
        timezone=request.timezone,
        timeframe=request.timeframe,
        symbol=request.symbol,
        data_root=request.data_root,
    )
    symbol, market_info = _symbol_of(request, file), _market_of(request, file)
    if market_info is None:
        session.require_workspace(connection, request.workspace_id)
        _refuse_unknown_market(connection, request, symbol)
        tally = Tally()
    else:
        tally = run_backfill(
            connection,
            request,
            _RegimeWork(request, file, symbol, market_info, computed_at=session.now(connection)),
            dry_run=dry_run,
            watch=watch,
            part=request.part,
        )
    tally.notices.update(file.notices)
    tally.notes += other_name(request.ohlcv_file, request.symbol)
    return BackfillReport.of(
        tally,
        kind=BackfillKind.REGIME,
        workspace_id=str(request.workspace_id),
        dry_run=dry_run,
        since=request.since,
        limit=request.limit,
        ohlcv=_source(request, file, symbol),
    )


class _Snapshots(NamedTuple):
    """The snapshots of a page's rows as JSON texts."""

    out_of_sample: dict[int, str]
    in_sample: dict[int, str]


class _RegimeWork:
    kind = BackfillKind.REGIME

    def __init__(
        self,
        request: RegimeRequest,
        file: OhlcvFile,
        symbol: str,
        info: SymbolInfo,
        computed_at: datetime,
    ) -> None:
        self._request = request
        self._file = file
        self._computed_at = computed_at
        self._symbol = symbol
        times_ns = bar_times_ns(file.frame)
        self._calendar = info.calendar
        self._bars = WindowedBars(
            times_ns,
            CoverageIndex(
                times_ns, calendar=info.calendar, timeframe=request.timeframe, timezone=info.timezone
            ),
            request.min_coverage,
        )
        self._day_zone = _day_zone(request.timeframe, times_ns, info.timezone)
        self._windows: dict[str, RunWindows | SkipReason] = {}
        self._only_symbol_named: bool | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "since": self._request.since.isoformat() if self._request.since else None,
            "ohlcv_file": str(self._request.ohlcv_file),
            "symbol": self._request.symbol,
            "timeframe": self._request.timeframe,
            "calendar": self._calendar,
            "min_coverage": self._request.min_coverage,
        }

    def fetch(self, connection: Connection, span: Span, rows: int) -> Rows:
        return backtest_runs.read_regime_page(
            connection,
            self._request.workspace_id,
            symbol=self._request.symbol,
            since=self._request.since,
            bounds=span.parameters(),
            rows=rows,
        )

    def read(self, connection: Connection, span: Span, rows: int) -> Page:
        found = self.fetch(connection, span, rows)
        if self._only_symbol_named is None and any(row[3] is None for row in found):
            named = backtest_runs.distinct_symbols(connection, self._request.workspace_id)
            self._only_symbol_named = named <= {self._symbol.upper()}
        return Page.of(span, found)

    def decide(self, page: Page) -> Decisions:
        """Find each run's window, check its coverage, and compute all snapshots of the page at once."""
        if not page.ids:
            return Decisions(())
        symbols, window_texts = page.columns
        windows = [
            self._symbol_objection(symbol) or self._run_windows(text)
            for symbol, text in zip(symbols, window_texts, strict=True)
        ]
        outcomes: list[str | None] = [None if isinstance(it, RunWindows) else it for it in windows]
        found = {row: window for row, window in enumerate(windows) if isinstance(window, RunWindows)}
        checked = self._bars.check([window.out_of_sample for window in found.values()])
        for row, is_covered in zip(found, checked.covered.tolist(), strict=True):
            outcomes[row] = None if is_covered else SkipReason.INSUFFICIENT_OHLCV_COVERAGE
        place_of = {row: place for place, row in enumerate(found)}
        return Decisions(
            outcomes,
            payload=self._snapshots(found, checked),
            describe=lambda row: checked.describe(place_of[row]) if row in place_of else "",
        )

    def write(self, connection: Connection, page: Page, rows: Sequence[int]) -> set[str]:
        computed: _Snapshots = page.payload
        return backtest_runs.land_regimes(
            connection,
            self._request.workspace_id,
            ids=[page.ids[row] for row in rows],
            versions=[page.versions[row] for row in rows],
            out_of_sample=[computed.out_of_sample[row] for row in rows],
            in_sample=[computed.in_sample.get(row) for row in rows],
        )

    def _snapshots(self, windows: Mapping[int, RunWindows], checked: CheckedWindows) -> _Snapshots:
        """Compute the snapshots of covered windows, in sample and out of it, each distinct one once."""
        landing = list(compress(windows, checked.covered.tolist()))
        in_sample = {row: found for row in landing if (found := windows[row].in_sample) is not None}
        also = self._bars.check(list(in_sample.values()), in_sample=True)
        begins = np.concatenate([checked.begins[checked.covered], also.begins[also.covered]])
        ends = np.concatenate([checked.ends[checked.covered], also.ends[also.covered]])
        distinct, place = np.unique(begins << 32 | ends, return_inverse=True)
        snapshots = compute_regime_snapshots(
            self._file.frame,
            distinct >> 32,
            distinct & 0xFFFF_FFFF,
            source="backfill",
            instrument=self._symbol,
            timeframe=self._request.timeframe,
            computed_at=self._computed_at,
        )
        distinct_texts = snapshots.to_json()
        texts = [distinct_texts[at] for at in place.tolist()]
        return _Snapshots(
            dict(zip(landing, texts, strict=False)),
            dict(zip(compress(in_sample, also.covered.tolist()), texts[len(landing) :], strict=True)),
        )

    def _run_windows(self, text: str) -> RunWindows | SkipReason:
        """Return the windows that one JSON text of window fields names; equal texts are read once."""
        windows = self._windows.get(text)
        if windows is None:
            windows = _read_windows(text, self._day_zone)
            if len(self._windows) < _REMEMBERED_WINDOWS:
                self._windows[text] = windows
        return windows

    def _symbol_objection(self, symbol: str | None) -> SkipReason | None:
        if symbol is None:
            no_doubt = self._request.symbol is None and self._only_symbol_named
            return None if no_doubt else SkipReason.MISSING_SYMBOL
        return None if symbol.upper() == self._symbol.upper() else SkipReason.SYMBOL_MISMATCH


def _read_windows(text: str, day_zone: ZoneInfo | None) -> RunWindows | SkipReason:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):  # a number of too many digits, or nesting without end
        return SkipReason.INVALID_DATE_RANGE
    meta = dict(zip(_META_FIELDS, fields, strict=False))
    params = dict(zip(_PARAMS_FIELDS, fields[len(_META_FIELDS) :], strict=True))
    return run_windows(meta, params, day_zone=day_zone)


def _source(request: RegimeRequest, file: OhlcvFile, symbol: str) -> OhlcvSource:
    days = file.frame.index
    return OhlcvSource(
        path=str(request.ohlcv_file),
        symbol=symbol,
        timeframe=request.timeframe,
        rows=len(days),
        first_day=f"{days[0]:%Y-%m-%d}",
        last_day=f"{days[-1]:%Y-%m-%d}",
    )


def _symbol_of(request: RegimeRequest, file: OhlcvFile) -> str:
    symbol = request.symbol or file.symbol
    if symbol is None:
        raise BadArgumentError(
            f"{request.ohlcv_file} does not say which symbol its bars are of. "
            "Give --symbol, add a symbol column, or name the file like AAPL_1d.csv."
        )
    return symbol


def _market_of(request: RegimeRequest, file: OhlcvFile) -> SymbolInfo | None:
    """Return calendar and time zone of the file's bars, None where nothing says which.

    They are those of --symbol in symbols.yaml, else of the file's own symbol; --calendar overrides.
    """
    path = symbols_file(request.data_root)
    listed = load_symbols(path) if path.is_file() else {}
    names = [name.upper() for name in (request.symbol, file.symbol) if name]
    known = next((listed[name] for name in names if name in listed), None)
    if request.calendar is None:
        return known
    zone = known.timezone if known else market(request.calendar).timezone
    return SymbolInfo(names[0] if names else "", request.calendar, zone)


def why_none_waits(connection: Connection, request: RegimeRequest) -> str:
    """Return that no run waits for the symbol asked for, and which do wait; empty where one does."""
    waiting = sorted(waiting_symbols(connection, request.workspace_id))
    if request.symbol is None or request.symbol.upper() in waiting:
        return ""
    named = ", ".join(waiting[:_NAMED_SYMBOLS])
    rest = f" and {len(waiting) - _NAMED_SYMBOLS} more" if len(waiting) > _NAMED_SYMBOLS else ""
    those = f"those that wait name {named}{rest}" if waiting else "none that names a symbol waits"
    return f"No run of this workspace waits for symbol {request.symbol.upper()}; {those}."


def _refuse_unknown_market(connection: Connection, request: RegimeRequest, symbol: str) -> None:
    """Raise, if any run waits for these bars: without a calendar no window can be checked."""
    waiting = backtest_runs.read_regime_page(
        connection,
        request.workspace_id,
        symbol=request.symbol,
        since=request.since,
        bounds=Span().parameters(),
        rows=1,
    )
    if waiting:
        listed = symbols_file(request.data_root)
        raise BadArgumentError(
            f"The trading calendar of {symbol!r} is not known: {listed} does not list it. "
            "Add it there, or give --calendar (XNYS, 24/7, FX or another exchange code)."
        )


def _day_zone(timeframe: str, times_ns: Positions, timezone: str) -> ZoneInfo | None:
    """Return the zone whose days a bare date means: the symbol's, for daily bars not stamped in UTC."""
    stands_at_midnight = bool(np.all(times_ns % NS_PER_DAY == 0))
    return None if timeframe != "1d" or stands_at_midnight else ZoneInfo(timezone)
