"""The two strategies of the demo history, with the parameter sets that are tried of each.

They are written against the engine's own base class. Which bars they run on is in plan.py.
"""

from collections.abc import Sequence
from itertools import product
from typing import Final, NamedTuple

import pandas as pd
from backtesting import Strategy
from backtesting.lib import crossover

Params = dict[str, int]


class MovingAverageCross(Strategy):  # type: ignore[misc]  # the engine ships no types
    """Long while the fast mean of closes is above the slow one, short while it is below."""

    fast = 10
    slow = 50

    def init(self) -> None:
        """Compute both means once, over all bars."""
        if self.fast >= self.slow:
            raise ValueError(f"fast mean of {self.fast} bars is not shorter than slow mean of {self.slow}")
        close = pd.Series(self.data.Close)
        self.fast_mean = self.I(lambda: close.rolling(self.fast).mean())
        self.slow_mean = self.I(lambda: close.rolling(self.slow).mean())

    def next(self) -> None:
        """Turn the position round where the means cross."""
        if crossover(self.fast_mean, self.slow_mean):
            self.buy()
        elif crossover(self.slow_mean, self.fast_mean):
            self.sell()


class RsiReversion(Strategy):  # type: ignore[misc]
    """Buy when RSI falls below `lower`, sell out when it has come back above `leave`. Long only."""

    period = 14
    lower = 30
    leave = 55

    def init(self) -> None:
        """Compute Wilder's RSI once, over all bars."""
        change = pd.Series(self.data.Close).diff()
        gain, loss = (
            moves.clip(lower=0).ewm(alpha=1 / self.period, adjust=False, min_periods=self.period).mean()
            for moves in (change, -change)
        )
        self.rsi = self.I(lambda: 100 * gain / (gain + loss))

    def next(self) -> None:
        """Enter below the lower level, leave above the upper one."""
        if self.position and self.rsi[-1] > self.leave:
            self.position.close()
        elif not self.position and self.rsi[-1] < self.lower:
            self.buy()


class Method(NamedTuple):
    """A strategy with the parameter sets that are tried of it."""

    name: str
    engine_class: type[Strategy]
    description: str
    default_params: Params | None
    grid: Sequence[Params]
    sweep: Sequence[Params]


MOVING_AVERAGE_CROSS: Final = Method(
    "moving_average_cross",
    MovingAverageCross,
    "Always in the market: long while the fast mean of closes is above the slow one, else short.",
    {"fast": 10, "slow": 50},
    [
        {"fast": fast, "slow": slow}
        for fast, slow in product((3, 5, 8, 10, 12, 15, 20, 25, 30), (35, 40, 45, 50, 60, 70, 80, 90, 100))
    ],
    [{"fast": fast, "slow": slow} for fast, slow in ((3, 20), (5, 30), (10, 50), (20, 60), (20, 100))],
)
RSI_REVERSION: Final = Method(
    "rsi_reversion",
    RsiReversion,
    "Buys weakness: enters when RSI is low, leaves when it has recovered. Long only.",
    None,
    [
        {"period": period, "lower": lower, "leave": leave}
        for period, lower, leave in product((2, 3, 4, 5, 6, 7), (25, 30, 35, 40), (50, 55, 60, 70))
    ],
    [
        {"period": period, "lower": lower, "leave": leave}
        for period, lower, leave in ((2, 15, 60), (3, 20, 60), (7, 30, 55), (10, 35, 60), (14, 30, 50))
    ],
)
METHODS: Final = (MOVING_AVERAGE_CROSS, RSI_REVERSION)
UNPRUNED_PARAMS: Final = ({"fast": 50, "slow": 20}, {"fast": 60, "slow": 60})
"""Sets that a careless grid holds and the strategy refuses."""
