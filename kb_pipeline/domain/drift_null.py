"""What the windows that parameters were chosen in look like when their bars come in another order.

A regime is noisy: windows of one and the same market differ in key and features. How much is learned
from the training windows themselves, whose bars are resampled in blocks and described again (the
null). What follows for the newest bars is decided in `drift`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from kb_pipeline.domain.flags import flagged_names
from kb_pipeline.domain.matching import distances
from kb_pipeline.domain.price_bars import PriceBars
from kb_pipeline.domain.regime import RegimeSnapshots, compute_regime_snapshots
from kb_pipeline.domain.regime_key import regime_key_from_tags
from kb_pipeline.domain.tags import TAGS
from kb_pipeline.rules import (
    DISTANCE_FEATURES,
    DISTANCE_SCALE_FLOORS,
    DRIFT_BLOCK_BARS,
    DRIFT_NULL_WINDOWS,
    DRIFT_RARE_KEY_SHARE,
    DRIFT_RARE_SHARE,
    DRIFT_SEED,
    MAD_TO_STD,
    REGIME_SCHEMA_VERSION,
)

Floats = npt.NDArray[np.float64]

RESAMPLED_BARS: Final = 100
"""As far as tags and distances look back: 50 bars, and means that forget 99.999 % in 86 bars."""


@dataclass(frozen=True, slots=True)
class TrainingWindow:
    """Where parameters were chosen: the snapshot of the window, and its bars where they are at hand.

    `features` are those of `domain.matching`, shape (8,). `start_ns` and `end_ns` are the times of the
    first and last bar in UTC nanoseconds. `bars` are at least 50, or None.
    """

    regime_key: str
    features: Floats
    start_ns: int
    end_ns: int
    bars: PriceBars | None


@dataclass(frozen=True, slots=True)
class DriftNull:
    """The training windows and what chance makes of them.

    `scales` are the robust deviations of the features over all resampled windows, shape (8,);
    `by_chance` holds, ascending, how far each resampled window lies from the nearest training
    snapshot, and is empty where no window has bars. `key_shares` holds for each window with bars the
    share of its resampled windows by their key.
    """

    training: Sequence[TrainingWindow]
    windows_apart: int
    scales: Floats
    by_chance: Floats
    key_shares: list[dict[str, float]]
    seed: int

    @classmethod
    def of(
        cls, training: Sequence[TrainingWindow], *, draws: int = DRIFT_NULL_WINDOWS, seed: int = DRIFT_SEED
    ) -> Self:
        """Resample each window with bars `draws` times; the same seed gives a window the same resamples."""
        with_bars = [window for window in training if window.bars is not None]
        resampled = [
            resampled_snapshots(it.bars, draws, np.random.default_rng([seed, it.end_ns % 2**64]))
            for it in with_bars
            if it.bars is not None
        ]
        features = np.concatenate(
            [np.empty((len(DISTANCE_FEATURES), 0)), *map(feature_rows, resampled)], axis=1
        )
        scales = _scales(features)
        by_chance = np.sort(_nearest(features, training, scales))
        shares = [_shares(keys_of(it)) for it in resampled]
        return cls(training, windows_apart(with_bars), scales, by_chance, shares, seed)

    @property
    def limit(self) -> float:
        """The distance that 99 % of the resampled windows do not exceed."""
        return float(self.by_chance[round((1 - DRIFT_RARE_SHARE) * self.by_chance.size)])

    def distances(self, features: Floats) -> Floats:
        """Return how far windows, shape (8, windows), lie from the nearest training snapshot."""
        return _nearest(features, self.training, self.scales)

    def share_nearer(self, distance: Floats) -> Floats:
        """Return the share of resampled windows that lie nearer, below 1: that of nobody is not known."""
        nearer: Floats = np.searchsorted(self.by_chance, distance, side="left") / (self.by_chance.size + 1)
        return nearer

    def key_share(self, regime_key: str) -> float | None:
        """Return the share with a key, of the windows resampled from where it is largest; None: no bars."""
        return max((shares.get(regime_key, 0.0) for shares in self.key_shares), default=None)

    def has_left(self, regime_key: str) -> bool:
        """Return whether a key is neither that of a training snapshot nor one that chance makes of them."""
        is_known = any(window.regime_key == regime_key for window in self.training)
        return not is_known and (self.key_share(regime_key) or 0.0) <= DRIFT_RARE_KEY_SHARE


def windows_apart(training: Sequence[TrainingWindow]) -> int:
    """Return the largest number of training windows of which no two share time."""
    count, until = 0, None
    for window in sorted(training, key=lambda it: it.end_ns):
        if until is None or window.start_ns > until:
            count, until = count + 1, window.end_ns
    return count


# --- Resampling --------------------------------------------------------------------------------


def resampled_snapshots(bars: PriceBars, draws: int, rng: np.random.Generator) -> RegimeSnapshots:
    """Return the regimes of windows of 100 bars made of blocks of one window's bars.

    The stationary bootstrap: blocks begin anywhere, wrap around, and have random lengths. A bar is
    taken as its high, low and close over the close before it, so that the three stay together and a
    spell of volatility stays whole within a block.

    Source: Politis and Romano, *The Stationary Bootstrap* (1994).
    """
    moves = np.log(np.stack((bars.high[1:], bars.low[1:], bars.close[1:])) / bars.close[:-1])
    taken = moves[:, _block_positions(moves.shape[1], draws, rng)]
    closes = np.cumsum(taken[2], axis=1)
    high, low, close = np.exp(taken + (closes - taken[2])).reshape(3, -1)
    starts = np.arange(draws) * RESAMPLED_BARS
    no_times = np.full(close.size, "", dtype=object)
    series = PriceBars(high, low, close, no_times)
    return compute_regime_snapshots(series, starts, starts + RESAMPLED_BARS)


def _block_positions(count: int, draws: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return positions in 0..count-1, shape (draws, 100), that run on within a block."""
    shape = (draws, RESAMPLED_BARS)
    begins = rng.random(shape) < 1 / DRIFT_BLOCK_BARS
    begins[:, 0] = True
    places = np.arange(RESAMPLED_BARS)
    block_begin = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    first = np.take_along_axis(rng.integers(0, count, shape), block_begin, axis=1)
    positions: npt.NDArray[np.int64] = (first + places - block_begin) % count
    return positions


def feature_rows(snapshots: RegimeSnapshots) -> Floats:
    """Return the features that a distance takes, shape (8, windows)."""
    return np.array([snapshots.features[name] for name in DISTANCE_FEATURES])


def keys_of(snapshots: RegimeSnapshots) -> list[str]:
    """Return the regime key of each snapshot."""
    names = {
        bits: regime_key_from_tags(REGIME_SCHEMA_VERSION, flagged_names(bits, TAGS))
        for bits in np.unique(snapshots.tags).tolist()
    }
    return [names[bits] for bits in snapshots.tags.tolist()]


def _shares(keys: list[str]) -> dict[str, float]:
    found, counts = np.unique(keys, return_counts=True)
    return dict(zip(found.tolist(), (counts / len(keys)).tolist(), strict=True))


# --- Distance ----------------------------------------------------------------------------------


def _scales(features: Floats) -> Floats:
    """Return the robust deviation of each feature, shape (8,), from its values, shape (8, windows).

    A feature that takes one value nearly always, such as a direction, has the deviation that
    `matching` counts as its least. That of the others may be smaller: the scale of a workspace's
    snapshots is coarse for a calm market.
    """
    off = np.abs(features - _medians(features)[:, np.newaxis])
    return np.where((spread := _medians(off)) > 0, MAD_TO_STD * spread, DISTANCE_SCALE_FLOORS)


def _medians(values: Floats) -> Floats:
    known = [row[~np.isnan(row)] for row in values]
    return np.array([np.median(row) if row.size else 0.0 for row in known])


def _nearest(features: Floats, training: Sequence[TrainingWindow], scales: Floats) -> Floats:
    nearest: Floats = np.min([distances(features, it.features, scales) for it in training], axis=0)
    return nearest
