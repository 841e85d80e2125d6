"""Find bars for drift: the newest ones of a symbol, and those of the windows it was tuned in.

Files are read once however many strategies trade their symbol.
"""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from kb_pipeline.domain.drift import NEWEST_BARS
from kb_pipeline.domain.ohlcv import bar_times_ns
from kb_pipeline.domain.price_bars import PriceBars
from kb_pipeline.errors import BadArgumentError, OhlcvFileError
from kb_pipeline.rules import MIN_WINDOW_BARS, TIMEFRAMES_SECONDS
from kb_pipeline.storage.ohlcv_files import OhlcvFile, read_ohlcv_file
from kb_pipeline.storage.paths import data_root
from kb_pipeline.storage.price_files import PriceFile, list_price_files, other_name

_NS_PER_SECOND: Final = 10**9


class PriceSeries:
    """The bars of one file."""

    def __init__(self, file: OhlcvFile) -> None:
        self._times_ns = bar_times_ns(file.frame)
        self._bars = PriceBars.from_frame(file.frame)

    @property
    def newest_bar(self) -> datetime:
        """The time of the last bar, in UTC."""
        return datetime.fromtimestamp(int(self._times_ns[-1]) / _NS_PER_SECOND, UTC)

    def newest(self) -> PriceBars:
        """Return as many of the newest bars as a verdict looks at."""
        return self._part(max(0, len(self._bars) - NEWEST_BARS), len(self._bars))

    def window(self, start_ns: int, end_ns: int, n_bars: int) -> PriceBars | None:
        """Return the bars between two times, both included, None unless there are just so many."""
        begin = int(np.searchsorted(self._times_ns, start_ns, side="left"))
        end = int(np.searchsorted(self._times_ns, end_ns, side="right"))
        return self._part(begin, end) if end - begin == n_bars >= MIN_WINDOW_BARS else None

    def _part(self, begin: int, end: int) -> PriceBars:
        bars = self._bars
        return PriceBars(*(it[begin:end] for it in (bars.high, bars.low, bars.close, bars.times)))


class PriceShelf:
    """The price files at hand: those of the data root, and one given for the newest bars."""

    def __init__(
        self, root: Path | None, given: Path | None, symbol: str | None, timeframe: str | None
    ) -> None:
        """Look what there is; a file given is read at once.

        Raises:
            BadArgumentError: There is no data root, or the file given does not say what its bars are.
            OhlcvFileError: The file given is refused.
        """
        self.only_symbol = symbol and symbol.upper()
        self.only_timeframe = timeframe
        self._root = root or data_root()
        self._files: dict[tuple[str, str], PriceFile] = {}
        self._read: dict[tuple[str, str], PriceSeries] = {}
        self._given: PriceSeries | None = None
        self.notes: list[str] = []
        if given is None:
            self._list_files()
        else:
            # beside a file given, the data root only helps with older bars
            with suppress(BadArgumentError):
                self._list_files()
            self._given = self._read_given(given)

    def _list_files(self) -> None:
        self._files = {(it.symbol, it.timeframe): it for it in reversed(list_price_files(self._root))}

    def _read_given(self, path: Path) -> PriceSeries:
        named = Path(path.name.removesuffix(".gz")).stem.rpartition("_")[2]
        self.only_timeframe = self.only_timeframe or (named if named in TIMEFRAMES_SECONDS else None)
        if self.only_timeframe is None:
            raise BadArgumentError(
                f"{path} does not say how long its bars are. Give --timeframe, or name it like AAPL_1d.csv."
            )
        file = read_ohlcv_file(path, timeframe=self.only_timeframe, symbol=self.only_symbol)
        self.notes = other_name(path, self.only_symbol)
        if file.symbol is None:
            raise BadArgumentError(
                f"{path} does not say whose its bars are. Give --symbol, or name it like AAPL_1d.csv."
            )
        self.only_symbol = file.symbol
        return PriceSeries(file)

    def newest(self, symbol: str, timeframe: str) -> PriceSeries | None:
        """Return where the newest bars of a series are, None where there is no file.

        Raises:
            OhlcvFileError: The file is refused.
        """
        return self._given or self._of_root(symbol, timeframe)

    def window(
        self, symbol: str, timeframe: str, start_ns: int, end_ns: int, n_bars: int
    ) -> PriceBars | None:
        """Return the bars of a training window from the data root, else from the file given.

        Raises:
            OhlcvFileError: The file of the data root is refused, and none was given.
        """
        for series in (self._history(symbol, timeframe), self._given):
            found = None if series is None else series.window(start_ns, end_ns, n_bars)
            if found is not None:
                return found
        return None

    def _history(self, symbol: str, timeframe: str) -> PriceSeries | None:
        try:
            return self._of_root(symbol, timeframe)
        except OhlcvFileError:
            if self._given is None:
                raise
            return None

    def _of_root(self, symbol: str, timeframe: str) -> PriceSeries | None:
        name = (symbol, timeframe)
        file = self._files.get(name)
        if file is not None and name not in self._read:
            self._read[name] = PriceSeries(
                read_ohlcv_file(file.path, timeframe=timeframe, symbol=symbol, data_root=self._root)
            )
        return self._read.get(name)
