"""Drift on series without and with a planted switch: how often it is a false alarm, and how late a true one.

The series are real bars, put together anew in random blocks: one and the same market from end to end,
which real prices never are. Every bar after the training windows is an evaluation. Beside it, what
else might be done: comparing keys literally, and the population stability index (PSI).
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from kb_pipeline.domain.drift import NEWEST_BARS, judge_drift
from kb_pipeline.domain.drift_null import (
    DriftNull,
    TrainingWindow,
    feature_rows,
    keys_of,
    resampled_snapshots,
)
from kb_pipeline.domain.price_bars import PriceBars
from kb_pipeline.domain.regime import RegimeSnapshots, compute_regime_snapshots
from kb_pipeline.rules import DRIFT_CONSECUTIVE, MAX_WINDOW_BARS, DriftReason
from kb_pipeline.storage.ohlcv_files import read_ohlcv_file
from kb_pipeline.storage.paths import data_root
from kb_pipeline.storage.price_files import list_price_files

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

SEED: Final = 20_250_101
BARS_BETWEEN_TUNES: Final = 250
EVALUATED_BARS: Final = 250
PSI_WINDOWS, PSI_BINS, PSI_LIMIT = 50, 10, 0.2
PSI_LEAST_SHARE: Final = 1e-4  # an empty bin's, by custom
NEVER: Final = np.inf

SWITCHES: Final[dict[str, Callable[[Floats], Floats]]] = {
    "volatility x 2": lambda moves: 2 * moves,
    "volatility x 3": lambda moves: 3 * moves,
    "volatility / 2": lambda moves: moves / 2,
    "drift + 0.5 std a bar": lambda moves: moves + 0.5 * moves[2].std(),
}
"""What may happen to the moves of bars (logarithms of high, low and close over the close before)."""


# --- Series ------------------------------------------------------------------------------------


def moves_of(bars: PriceBars) -> Floats:
    """Return the logarithms of high, low and close over the close before, shape (3, bars - 1)."""
    moves: Floats = np.log(np.stack((bars.high[1:], bars.low[1:], bars.close[1:])) / bars.close[:-1])
    return moves


def bars_of(moves: Floats) -> PriceBars:
    """Return bars that move so."""
    closes = np.cumsum(moves[2])
    high, low, close = np.exp(moves + (closes - moves[2]))
    return PriceBars(high, low, close, np.full(close.size, "", dtype=object))


def reshuffled(moves: Floats, bars: int, block_bars: int, rng: np.random.Generator) -> Floats:
    """Return the moves of so many bars, made of blocks of random length from anywhere in the series."""
    begins = rng.random(bars) < 1 / block_bars
    begins[0] = True
    places = np.arange(bars)
    block_begin = np.maximum.accumulate(np.where(begins, places, 0))
    first = rng.integers(0, moves.shape[1], bars)[block_begin]
    taken: Floats = moves[:, (first + places - block_begin) % moves.shape[1]]
    return taken


def part(bars: PriceBars, begin: int, end: int) -> PriceBars:
    """Return the bars [begin, end)."""
    return PriceBars(*(it[begin:end] for it in (bars.high, bars.low, bars.close, bars.times)))


def regimes_at(bars: PriceBars, ends: npt.NDArray[np.int64]) -> RegimeSnapshots:
    """Return the regimes of the 200 bars before each end."""
    return compute_regime_snapshots(bars, ends - MAX_WINDOW_BARS, ends)


def trained(bars: PriceBars, ends: npt.NDArray[np.int64]) -> list[TrainingWindow]:
    """Return the windows before these ends as training windows, the newest first."""
    regimes = regimes_at(bars, ends)
    windows = [
        TrainingWindow(key, features, end - MAX_WINDOW_BARS, end - 1, part(bars, end - MAX_WINDOW_BARS, end))
        for key, features, end in zip(keys_of(regimes), feature_rows(regimes).T, ends.tolist(), strict=True)
    ]
    return windows[::-1]


# --- Rules -------------------------------------------------------------------------------------


def in_a_row(flags: Flags, count: int) -> Flags:
    """Return where this flag and the count - 1 before it are set."""
    runs = np.convolve(flags, np.ones(count, dtype=np.int64))[: flags.size]
    whole: Flags = runs == count
    return whole


def our_alarms(bars: PriceBars, null: DriftNull, ends: npt.NDArray[np.int64]) -> dict[str, Flags]:
    """Return where the newest bars are an alarm, evaluated at each end: in all and by each sign."""
    reasons, departed_before = [], 0
    for end in ends.tolist():
        verdict = judge_drift(part(bars, max(0, end - NEWEST_BARS), end), null, departed_before)
        departed_before = departed_before + 1 if verdict.departed else 0
        reasons.append(verdict.reason)
    by_distance = np.array([it is DriftReason.DISTANCE_BEYOND_NULL for it in reasons])
    by_key = np.array([it is DriftReason.KEY_CHANGED for it in reasons])
    return {"drift": by_distance | by_key, "  by distance": by_distance, "  by key alone": by_key}


def literal_alarms(training: list[TrainingWindow], keys: list[str]) -> dict[str, Flags]:
    """Return where keys differ on three evaluations in a row, whatever chance makes of them."""
    then = {window.regime_key for window in training}
    differs = np.array([key not in then for key in keys])
    from_last = np.array([key != training[0].regime_key for key in keys])
    return {
        "key differs from all training keys": in_a_row(differs, DRIFT_CONSECUTIVE),
        "key differs from the last tune's": in_a_row(from_last, DRIFT_CONSECUTIVE),
    }


def psi(reference: Floats, live: Floats) -> Floats:
    """Return the population stability index of each 50 windows in a row over deciles of the reference.

    Args:
        reference: One feature of the training windows, shape (windows,).
        live: The same of windows one bar apart, shape (bars,); the answer has 49 fewer.
    """
    inner = np.quantile(reference, np.linspace(0, 1, PSI_BINS + 1)[1:-1])
    is_in = np.searchsorted(inner, live)[:, np.newaxis] == np.arange(PSI_BINS)
    counts = np.lib.stride_tricks.sliding_window_view(is_in, PSI_WINDOWS, axis=0).sum(axis=2)
    expected = np.bincount(np.searchsorted(inner, reference), minlength=PSI_BINS) / reference.size
    then, now = np.maximum(expected, PSI_LEAST_SHARE), np.maximum(counts / PSI_WINDOWS, PSI_LEAST_SHARE)
    index: Floats = np.sum((now - then) * np.log(now / then), axis=1)
    return index


def psi_alarms(before: RegimeSnapshots, live: Floats) -> dict[str, Flags]:
    """Return where the newest 50 windows, one a bar, have a PSI above 0.2 against 50 training windows.

    `live` holds the features of windows one bar apart, the first 49 before the first evaluation.
    """
    indices = np.array([psi(then, now) for then, now in zip(feature_rows(before), live, strict=True)])
    return {
        "PSI > 0.2, atr_pct": indices[0] > PSI_LIMIT,
        "PSI > 0.2, any feature": (indices > PSI_LIMIT).any(axis=0),
    }


def all_alarms(bars: PriceBars, null: DriftNull, ends: npt.NDArray[np.int64]) -> dict[str, Flags]:
    """Return the alarms of every rule at each end."""
    training = list(null.training)
    spread = np.linspace(MAX_WINDOW_BARS, training[0].end_ns + 1, PSI_WINDOWS).astype(np.int64)
    live = regimes_at(bars, np.arange(ends[0] - PSI_WINDOWS + 1, ends[-1] + 1))
    return {
        **our_alarms(bars, null, ends),
        **literal_alarms(training, keys_of(live)[PSI_WINDOWS - 1 :]),
        **psi_alarms(regimes_at(bars, spread), feature_rows(live)),
    }


# --- Counting ----------------------------------------------------------------------------------


def events(alarms: Flags) -> int:
    """Return how many events alarms make: one ends after three evaluations without an alarm."""
    at = np.flatnonzero(alarms)
    return int(at.size > 0) + int(np.sum(np.diff(at) > DRIFT_CONSECUTIVE))


@dataclass
class Tally:
    """What one rule did: of each unchanged series its share of alarms and its events, and all delays."""

    shares: list[float] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    delays: dict[str, list[float]] = field(default_factory=dict)

    def line(self, name: str) -> str:
        """Return a row of the table."""
        if not self.shares:
            return f"| {name} | |"
        error = float(np.std(self.shares)) / len(self.shares) ** 0.5
        cells = [
            f"{np.mean(self.shares):.2%} ± {error:.2%}",
            f"{np.mean(self.events):.2f}",
            f"{np.mean(np.array(self.events) > 0):.0%}",
            *(f"{_median(it)} ({np.mean(np.isfinite(it)):.0%})" for it in self.delays.values()),
        ]
        return f"| {name} | {' | '.join(cells)} |"


def _median(delays: list[float]) -> str:
    middle = float(np.median(delays))
    return f"{middle:.0f}" if np.isfinite(middle) else "never"


def tally_series(tallies: dict[str, Tally], moves: Floats, tunes: int, gap_bars: int) -> None:
    """Evaluate one series as it is, and with each switch at the first bar evaluated."""
    last_tune = tunes * BARS_BETWEEN_TUNES
    switch = last_tune + gap_bars
    ends = np.arange(switch + 1, moves.shape[1] + 1)
    bars = bars_of(moves)
    null = DriftNull.of(trained(bars, np.arange(1, tunes + 1) * BARS_BETWEEN_TUNES))
    for name, alarms in all_alarms(bars, null, ends).items():
        tallies.setdefault(name, Tally()).shares.append(float(alarms.mean()))
        tallies[name].events.append(events(alarms))
    for what, changed in SWITCHES.items():
        after = np.concatenate((moves[:, :switch], changed(moves[:, switch:])), axis=1)
        for name, alarms in all_alarms(bars_of(after), null, ends).items():
            delay = float(np.argmax(alarms)) + 1 if alarms.any() else NEVER
            tallies[name].delays.setdefault(what, []).append(delay)


def table(tallies: dict[str, Tally]) -> str:
    """Return the tallies as a table, rules as rows."""
    switches = " | ".join(f"{name}: delay, bars (found)" for name in SWITCHES)
    header = f"| rule | evaluations in alarm, unchanged | events a series | series with one | {switches} |"
    lines = [header, "|---|" + "--:|" * (3 + len(SWITCHES))]
    return "\n".join([*lines, *(tally.line(name) for name, tally in tallies.items())])


# --- What is measured --------------------------------------------------------------------------


def price_series() -> Iterator[tuple[str, Floats]]:
    """Yield the name and moves of each price file under the data root."""
    for file in list_price_files(data_root()):
        bars = PriceBars.from_frame(read_ohlcv_file(file.path, timeframe=file.timeframe).frame)
        yield f"{file.symbol} {file.timeframe}", moves_of(bars)


def measure_reshuffled(series: int, tunes: int, block_bars: int, names: list[str]) -> None:
    """Print what the rules do on series put together from blocks of each price file."""
    print(f"\n{tunes} training windows, blocks of {block_bars} bars, {series} series from each price file")
    tallies: dict[str, Tally] = {}
    for number, (name, moves) in enumerate(price_series()):
        if names and name.split()[0] not in names:
            continue
        rng = np.random.default_rng([SEED, tunes, block_bars, number])
        # The live windows share no bar with the last training window.
        bars = tunes * BARS_BETWEEN_TUNES + MAX_WINDOW_BARS + EVALUATED_BARS
        for _ in range(series):
            tally_series(tallies, reshuffled(moves, bars, block_bars, rng), tunes, MAX_WINDOW_BARS)
    print(table(tallies))


def measure_real(tunes: int, names: list[str]) -> None:
    """Print what the rules do on the prices as they were: the year after each run of training years."""
    tallies: dict[str, Tally] = {}
    bars = tunes * BARS_BETWEEN_TUNES + EVALUATED_BARS
    for name, moves in price_series():
        if names and name.split()[0] not in names:
            continue
        for begin in range(0, moves.shape[1] - bars + 1, BARS_BETWEEN_TUNES):
            tally_series(tallies, moves[:, begin : begin + bars], tunes, 0)
    series = len(next(iter(tallies.values())).shares)
    print(f"\nreal prices as they were: {tunes} training windows and the 250 bars after, {series} stretches")
    print(table(tallies))


def measure_independent_psi(repeats: int) -> None:
    """Print how often the PSI of 50 against 50 windows is above 0.2, all windows independent and alike."""
    rng = np.random.default_rng(SEED)
    for name, moves in price_series():
        rows = [feature_rows(resampled_snapshots(bars_of(moves), 100, rng)) for _ in range(repeats)]
        alarms = [psi(it[0, :PSI_WINDOWS], it[0, PSI_WINDOWS:])[0] > PSI_LIMIT for it in rows]
        print(f"PSI of 50 against 50 independent windows of {name}: above 0.2 in {np.mean(alarms):.0%}")


def main() -> None:
    """Measure, or with --smoke try each part on little."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one series of one price file")
    parser.add_argument("--series", type=int, default=10, help="series made from each price file")
    parser.add_argument("--symbols", nargs="*", default=[], help="only these")
    arguments = parser.parse_args()
    names = ["IBM"] if arguments.smoke else arguments.symbols
    series = 1 if arguments.smoke else arguments.series
    measure_independent_psi(20 if arguments.smoke else 200)
    for tunes, block_bars in ((4, 20), (8, 20), (8, 100)):
        measure_reshuffled(series, tunes, block_bars, names)
    for tunes in (5, 8):
        measure_real(tunes, names)


if __name__ == "__main__":
    main()
