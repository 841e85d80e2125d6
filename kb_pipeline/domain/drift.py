"""Decide whether the newest bars have left the regimes that a strategy's parameters were chosen in.

Two signs are looked for: a regime key that the training windows do not have, and a distance from the
training snapshots that their windows do not reach. What the windows have and reach by chance is
learned from the windows themselves: their bars are resampled in blocks, and the features computed
again (the null). Which tunes count as training, and what was found before, is the work of
`questions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

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
    DRIFT_CONSECUTIVE,
    DRIFT_FAR_BARS,
    DRIFT_NULL_WINDOWS,
    DRIFT_RARE_KEY_SHARE,
    DRIFT_RARE_SHARE,
    DRIFT_SEED,
    MAD_TO_STD,
    MAX_WINDOW_BARS,
    MIN_DRIFT_SNAPSHOTS,
    MIN_WINDOW_BARS,
    REGIME_SCHEMA_VERSION,
    DriftReason,
)

Floats = npt.NDArray[np.float64]

ALARMS: Final = (DriftReason.DISTANCE_BEYOND_NULL, DriftReason.KEY_CHANGED)
MOVED_FEATURES: Final = 3
NEWEST_BARS: Final = MAX_WINDOW_BARS + DRIFT_FAR_BARS - 1
"""More bars than these, the newest, do not change a verdict."""


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


class MovedFeature(NamedTuple):
    """A feature in the nearest training snapshot and now; `size` is the move in robust deviations."""

    feature: str
    then: float
    now: float
    size: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftVerdict:
    """What the newest bars look like beside the training windows; None is unknown, never zero.

    `departed` says that the key alone counts towards an alarm. `key_share` is the largest share, of
    windows resampled from one training window, that has the key of now. `distance` is that to the
    nearest training snapshot, `limit` the one that alarms where the newest ten bars exceed it, and
    `null_percentile` the share of all resampled windows that lie nearer, in percent.
    """

    reason: DriftReason
    key_now: str | None = None
    keys_then: tuple[str, ...] = ()
    departed: bool = False
    key_share: float | None = None
    distance: float | None = None
    limit: float | None = None
    null_percentile: float | None = None
    moved: tuple[MovedFeature, ...] = ()
    snapshots: int = 0
    windows_apart: int = 0
    bars: int = 0
    seed: int = DRIFT_SEED

    @property
    def is_alarm(self) -> bool:
        """Whether the regime counts as left."""
        return self.reason in ALARMS


# --- The null ----------------------------------------------------------------------------------


class _Null(NamedTuple):
    """Windows resampled from each training window with bars, in the order of these.

    `features` has shape (windows, 8, draws); `key_shares` holds the share of each key by window.
    """

    windows: list[TrainingWindow]
    features: Floats
    key_shares: list[dict[str, float]]

    @classmethod
    def of(cls, training: Sequence[TrainingWindow], draws: int, seed: int) -> "_Null":
        rng = np.random.default_rng(seed)
        windows = [window for window in training if window.bars is not None]
        resampled = [resampled_snapshots(it.bars, draws, rng) for it in windows if it.bars is not None]
        features = np.array([_feature_rows(it) for it in resampled])
        return cls(windows, features, [_key_shares(it) for it in resampled])


def resampled_snapshots(bars: PriceBars, draws: int, rng: np.random.Generator) -> RegimeSnapshots:
    """Return the regimes of windows of 200 bars made of blocks of one window's bars.

    The stationary bootstrap: blocks begin anywhere, wrap around, and have random lengths. A bar is
    taken as its high, low and close over the close before it, so that the three stay together and a
    spell of volatility stays whole within a block.

    Source: Politis and Romano, *The Stationary Bootstrap* (1994).
    """
    moves = np.log(np.stack((bars.high[1:], bars.low[1:], bars.close[1:])) / bars.close[:-1])
    taken = moves[:, _block_positions(moves.shape[1], draws, rng)]
    closes = np.cumsum(taken[2], axis=1)
    high, low, close = np.exp(taken + (closes - taken[2])).reshape(3, -1)
    starts = np.arange(draws) * MAX_WINDOW_BARS
    no_times = np.full(close.size, "", dtype=object)
    series = PriceBars(high, low, close, no_times)
    return compute_regime_snapshots(series, starts, starts + MAX_WINDOW_BARS)


def _block_positions(count: int, draws: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return positions in 0..count-1, shape (draws, 200), that run on within a block."""
    shape = (draws, MAX_WINDOW_BARS)
    begins = rng.random(shape) < 1 / DRIFT_BLOCK_BARS
    begins[:, 0] = True
    places = np.arange(MAX_WINDOW_BARS)
    block_begin = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    first = np.take_along_axis(rng.integers(0, count, shape), block_begin, axis=1)
    positions: npt.NDArray[np.int64] = (first + places - block_begin) % count
    return positions


def _feature_rows(snapshots: RegimeSnapshots) -> Floats:
    return np.array([snapshots.features[name] for name in DISTANCE_FEATURES])


def _keys(snapshots: RegimeSnapshots) -> list[str]:
    names = {
        bits: regime_key_from_tags(REGIME_SCHEMA_VERSION, flagged_names(bits, TAGS))
        for bits in np.unique(snapshots.tags).tolist()
    }
    return [names[bits] for bits in snapshots.tags.tolist()]


def _key_shares(snapshots: RegimeSnapshots) -> dict[str, float]:
    keys, counts = np.unique(_keys(snapshots), return_counts=True)
    return dict(zip(keys.tolist(), (counts / len(snapshots)).tolist(), strict=True))


# --- Distance ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Distance:
    """How far the newest bars lie from the training snapshots.

    `percentiles` are those of the newest ten bars, oldest first, 0 to 1; the rest is of the newest.
    """

    value: float
    limit: float
    percentiles: list[float]
    moved: tuple[MovedFeature, ...]


def _measure(live: Floats, training: Sequence[TrainingWindow], null: _Null) -> _Distance | None:
    """Hold the newest bars, shape (8, bars), against the null; None where too many features are undefined.

    Near is what is near to any of the snapshots: parameters chosen in several regimes may be used in
    each of them.
    """
    snapshots = [window.features for window in training]
    scales = _scales(null.features)
    now = _nearest(live, snapshots, scales)
    if not np.isfinite(now).all():
        return None
    by_chance = np.sort(np.concatenate([_nearest(it, snapshots, scales) for it in null.features]))
    nearer = np.searchsorted(by_chance, now, side="left") / (by_chance.size + 1)
    at = int(np.argmin([_nearest(live[:, -1:], [it], scales)[0] for it in snapshots]))
    return _Distance(
        float(now[-1]),
        float(by_chance[round((1 - DRIFT_RARE_SHARE) * by_chance.size)]),
        nearer.tolist(),
        _moved(snapshots[at], live[:, -1], scales),
    )


def _scales(features: Floats) -> Floats:
    """Return the robust deviation of each feature over all resampled windows, shape (8,).

    A feature that takes one value nearly always, such as a direction, has the deviation that
    `domain.matching` counts as its least.
    """
    values = np.moveaxis(features, 1, 0).reshape(len(DISTANCE_FEATURES), -1)
    middle = np.array([np.median(it[~np.isnan(it)]) if not np.isnan(it).all() else 0.0 for it in values])
    off = np.abs(values - middle[:, np.newaxis])
    spread = np.array([np.median(it[~np.isnan(it)]) if not np.isnan(it).all() else 0.0 for it in off])
    return np.where(spread > 0, MAD_TO_STD * spread, DISTANCE_SCALE_FLOORS)


def _nearest(features: Floats, snapshots: Sequence[Floats], scales: Floats) -> Floats:
    nearest: Floats = np.min([distances(features, snapshot, scales) for snapshot in snapshots], axis=0)
    return nearest


def _moved(then: Floats, now: Floats, scales: Floats) -> tuple[MovedFeature, ...]:
    sizes = np.nan_to_num((now - then) / scales)
    order = np.argsort(-np.abs(sizes), kind="stable")[:MOVED_FEATURES].tolist()
    return tuple(
        MovedFeature(DISTANCE_FEATURES[at], float(then[at]), float(now[at]), float(sizes[at]))
        for at in order
        if sizes[at]
    )


def windows_apart(training: Sequence[TrainingWindow]) -> int:
    """Return the largest number of training windows of which no two share time."""
    count, until = 0, None
    for window in sorted(training, key=lambda it: it.end_ns):
        if until is None or window.start_ns > until:
            count, until = count + 1, window.end_ns
    return count


# --- The verdict -------------------------------------------------------------------------------


def judge_drift(
    bars: PriceBars,
    training: Sequence[TrainingWindow],
    departed_before: int,
    *,
    draws: int = DRIFT_NULL_WINDOWS,
    seed: int = DRIFT_SEED,
) -> DriftVerdict:
    """Return whether the newest bars have left the regimes of the training windows.

    Args:
        bars: The newest bars, oldest first; of more than 209 the last 209 count.
        training: At least one window, the newest first.
        departed_before: Evaluations directly before this one, over fewer bars, whose key had departed.
        draws: Windows to resample from each training window.
        seed: The same seed gives the same verdict.

    Raises:
        NonFinitePriceError: A price is NaN or infinite.
    """
    if len(bars) < MIN_WINDOW_BARS:
        return DriftVerdict(reason=DriftReason.NOT_ENOUGH_BARS, bars=len(bars))
    live = _newest(bars)
    null = _Null.of(training, draws, seed)
    apart = windows_apart(null.windows)
    key_now = _keys(live)[-1]
    keys_then = tuple(dict.fromkeys(window.regime_key for window in training))
    key_share = max((shares.get(key_now, 0.0) for shares in null.key_shares), default=None)
    departed = key_now not in keys_then and (key_share or 0.0) <= DRIFT_RARE_KEY_SHARE
    features = _feature_rows(live)
    measured = _measure(features, training, null) if apart >= MIN_DRIFT_SNAPSHOTS else None
    reason = _reason(measured, len(live), key_now in keys_then, departed, departed_before)
    verdict = DriftVerdict(
        reason=reason or _reason_for_no_distance(training, apart),
        key_now=key_now,
        keys_then=keys_then,
        departed=departed,
        key_share=key_share,
        snapshots=len(training),
        windows_apart=apart,
        bars=int(live.n_bars[-1]),
        seed=seed,
    )
    return verdict if measured is None else _with_distance(verdict, measured)


def _with_distance(verdict: DriftVerdict, measured: _Distance) -> DriftVerdict:
    return replace(
        verdict,
        distance=measured.value,
        limit=measured.limit,
        null_percentile=100 * measured.percentiles[-1],
        moved=measured.moved,
    )


def _newest(bars: PriceBars) -> RegimeSnapshots:
    """Return the regimes at the newest ten bars, or at as many as end a window of 50 bars."""
    ends = np.arange(max(MIN_WINDOW_BARS, len(bars) - DRIFT_FAR_BARS + 1), len(bars) + 1)
    return compute_regime_snapshots(bars, np.maximum(ends - MAX_WINDOW_BARS, 0), ends)


def _reason(
    measured: _Distance | None, newest: int, is_known_key: bool, departed: bool, departed_before: int
) -> DriftReason | None:
    """Return the first reason that holds, None where only the distance could tell and is unknown."""
    is_far = [it >= 1 - DRIFT_RARE_SHARE for it in measured.percentiles] if measured else [False]
    if newest == DRIFT_FAR_BARS and all(is_far):
        return DriftReason.DISTANCE_BEYOND_NULL
    if departed and departed_before + 1 >= DRIFT_CONSECUTIVE:
        return DriftReason.KEY_CHANGED
    if departed or is_far[-1]:
        return DriftReason.UNCONFIRMED
    if measured is None:
        return None
    return DriftReason.STABLE if is_known_key else DriftReason.KEY_DIFFERS_BY_CHANCE


def _reason_for_no_distance(training: Sequence[TrainingWindow], apart_with_bars: int) -> DriftReason:
    if apart_with_bars >= MIN_DRIFT_SNAPSHOTS:
        return DriftReason.FEATURES_UNDEFINED
    if windows_apart(training) >= MIN_DRIFT_SNAPSHOTS:
        return DriftReason.TRAINING_BARS_MISSING
    return DriftReason.TOO_FEW_TRAINING_SNAPSHOTS
