"""What the demo history tries: the markets, the tunes and the sweeps, each on which bars.

Running the backtests and making rows of them is the work of tunes.py and sweeps.py. Windows that reach
beyond a price file are there on purpose: a real history has them, and what reads it must say so.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from demo_history.strategies import METHODS, MOVING_AVERAGE_CROSS, RSI_REVERSION, Method, Params

OOS_RATIO: Final = 0.3
"""Share of a tune's window that its parameters are not chosen on."""


class Market(NamedTuple):
    """One price file and what a trade in it costs."""

    symbol: str
    timeframe: str
    commission_fraction: float

    @property
    def file_name(self) -> str:
        """Name of the file under data/ohlcv."""
        return f"{self.symbol}_{self.timeframe}.csv"


class Window(NamedTuple):
    """Bars from one date to another, both included."""

    start: str
    end: str


AAPL, GOOG, IBM, MSFT = (Market(symbol, "1d", 0.001) for symbol in ("AAPL", "GOOG", "IBM", "MSFT"))
EURUSD: Final = Market("EURUSD", "1h", 0.0001)
STOCKS: Final = (AAPL, GOOG, IBM, MSFT)
MARKETS: Final = (*STOCKS, EURUSD)

QUARTERS: Final = (
    Window("2017-01-01", "2017-03-31"),
    Window("2017-04-01", "2017-06-30"),
    Window("2017-07-01", "2017-09-30"),
    Window("2017-10-01", "2017-12-31"),
)


# --- Tunes -------------------------------------------------------------------------------------


class Tune(NamedTuple):
    """One parameter search over a window; `trials_done` below the grid's size means it was cut short."""

    method: Method
    market: Market
    window: Window
    oos_ratio: float | None = OOS_RATIO
    status: Literal["completed", "running", "queued"] = "completed"
    trials_done: int | None = None


def three_years_ending(year: int) -> Window:
    """Return the window of three whole calendar years."""
    return Window(f"{year - 2}-01-01", f"{year}-12-31")


def has_three_years(market: Market, last_year: int) -> bool:
    """Say whether the file covers the three years; Google was listed in August 2004."""
    return last_year >= (2007 if market is GOOG else 2004)


def planned_tunes() -> Iterator[Tune]:
    """Yield every tune, oldest first by the time it was run."""
    for method in METHODS:  # from before tunes were split
        yield Tune(method, AAPL, three_years_ending(2003), oos_ratio=None)
    for year in range(2004, 2013):
        for market in STOCKS:
            if has_three_years(market, year):
                yield from (Tune(method, market, three_years_ending(year)) for method in METHODS)
    for quarter in QUARTERS:
        yield from (Tune(method, EURUSD, quarter) for method in METHODS)
    # Nobody noticed that Google was not listed yet: every trial fails.
    yield Tune(RSI_REVERSION, GOOG, three_years_ending(2003))
    # The history was cut while one tune ran and another waited.
    last = Window("2010-03-01", "2013-02-28")
    yield Tune(MOVING_AVERAGE_CROSS, MSFT, last, status="running", trials_done=30)
    yield Tune(RSI_REVERSION, MSFT, last, status="queued", trials_done=0)


# --- Sweeps ------------------------------------------------------------------------------------


class Variant(NamedTuple):
    """One test variant: parameters on a window, and what its row tells about that window.

    `told` is how dataset_meta describes the bars: their range, a range with the out-of-sample part by
    dates (`oos`) or by share, or only a reference without any date.
    """

    window: Window
    params: Params
    told: Literal["range", "oos_dates", "oos_ratio", "reference"] = "range"
    oos: Window | None = None


class Sweep(NamedTuple):
    """A run plan: variants of one strategy on one market."""

    method: Method
    market: Market
    experiment_type: str | None
    variants: Sequence[Variant]


UNPRUNED_PARAMS: Final = ({"fast": 50, "slow": 20}, {"fast": 60, "slow": 60})
"""Sets that a careless grid holds and the strategy refuses."""


def full_windows(market: Market) -> list[Window]:
    """Return the windows that the file covers: calendar years, or months of hourly bars."""
    if market is not EURUSD:
        return [Window(f"{year}-01-01", f"{year}-12-31") for year in range(2005, 2013)]
    ends = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    return [Window(f"2017-{month:02}-01", f"2017-{month:02}-{end}") for month, end in enumerate(ends, 1)]


def doubtful_windows(market: Market) -> list[Window]:
    """Return windows that begin before the file, end after it, or hold fewer than 50 bars."""
    if market is EURUSD:
        return [
            Window("2016-11-01", "2017-01-15"),
            Window("2017-12-01", "2018-02-28"),
            Window("2017-05-03", "2017-05-04"),
        ]
    before = Window("2004-01-01", "2004-12-31") if market is GOOG else Window("1999-07-01", "2000-06-30")
    return [before, Window("2012-07-01", "2014-06-30"), Window("2010-03-01", "2010-04-23")]


def split_variants(method: Method, market: Market) -> Iterator[Variant]:
    """Yield variants scored on a part of their window, and some that name no dates."""
    if market is EURUSD:
        whole, oos, other, undated = QUARTERS[1], Window("2017-06-01", "2017-06-30"), QUARTERS[2], QUARTERS[3]
    else:
        whole, oos = three_years_ending(2008), Window("2008-04-01", "2008-12-31")
        other, undated = three_years_ending(2011), Window("2007-01-01", "2008-12-31")
    for params in method.sweep:
        yield Variant(whole, params, "oos_dates", oos)
        yield Variant(other, params, "oos_ratio")
        yield Variant(undated, params, "reference")


def sweep_variants(method: Method, market: Market) -> list[Variant]:
    """Return the variants of the main sweep of a strategy on a market."""
    windows = [*full_windows(market), *doubtful_windows(market)]
    variants = [Variant(window, params) for window in windows for params in method.sweep]
    variants += split_variants(method, market)
    beyond = Window("2018-01-01", "2018-12-31") if market is EURUSD else Window("2014-01-01", "2014-12-31")
    variants += [Variant(beyond, params) for params in method.sweep[:2]]
    if method is MOVING_AVERAGE_CROSS:
        variants += [Variant(windows[0], params) for params in UNPRUNED_PARAMS]
    return variants


def planned_sweeps() -> Iterator[Sweep]:
    """Yield every run plan, oldest first by the time it was run."""
    for method in METHODS:
        for market in MARKETS:
            yield Sweep(method, market, None, sweep_variants(method, market))
    for market in (AAPL, MSFT):  # tried by hand, outside any plan of a search
        by_hand = [Variant(Window("2012-01-01", "2013-02-28"), params) for params in RSI_REVERSION.sweep]
        yield Sweep(RSI_REVERSION, market, "manual", by_hand)


class Decision(NamedTuple):
    """What a person had decided about the runs of one window."""

    method: Method
    market: Market
    window: Window
    status: Literal["excluded", "promoted", "rejected"]
    reason: str


DECISIONS: Final = (
    Decision(
        MOVING_AVERAGE_CROSS,
        AAPL,
        Window("2008-01-01", "2008-12-31"),
        "excluded",
        "the window was chosen after the result was seen",
    ),
    Decision(RSI_REVERSION, MSFT, Window("2009-01-01", "2009-12-31"), "promoted", "held up on paper"),
    Decision(RSI_REVERSION, GOOG, Window("2008-01-01", "2008-12-31"), "rejected", "one trade carries it all"),
)
