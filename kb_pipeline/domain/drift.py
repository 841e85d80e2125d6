"""Decide whether the newest bars have left the regimes that a strategy's parameters were chosen in.

Two signs count: a regime key that the training windows do not have, on three evaluations in a row,
and a distance from the training snapshots that hardly any of their resampled windows reach, at each
of the newest ten bars. What resampled windows have and reach stands in `drift_null`; which tunes
count as training, and what was found before, is the work of `questions`.
"""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from kb_pipeline.domain.drift_null import DriftNull, Floats, feature_rows, keys_of, windows_apart
from kb_pipeline.domain.matching import distances
from kb_pipeline.domain.price_bars import PriceBars
from kb_pipeline.domain.regime import RegimeSnapshots, compute_regime_snapshots
from kb_pipeline.rules import (
    DISTANCE_FEATURES,
    DRIFT_CONSECUTIVE,
    DRIFT_FAR_BARS,
    DRIFT_RARE_SHARE,
    DRIFT_SEED,
    MAX_WINDOW_BARS,
    MIN_DRIFT_SNAPSHOTS,
    MIN_WINDOW_BARS,
    DriftReason,
)

ALARMS: Final = (DriftReason.DISTANCE_BEYOND_NULL, DriftReason.KEY_CHANGED)
MOVED_FEATURES: Final = 3
NEWEST_BARS: Final = MAX_WINDOW_BARS + DRIFT_FAR_BARS - 1
"""More bars than these, the newest, do not change a verdict."""


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


@dataclass(frozen=True, slots=True)
class _Distance:
    """How far the newest bars lie from the training snapshots; None: too few features to say.

    `is_far` tells of the newest ten bars, or as many as there are, the oldest first.
    """

    value: float
    percentile: float
    is_far: list[bool]
    moved: tuple[MovedFeature, ...]


def judge_drift(bars: PriceBars, null: DriftNull, departed_before: int) -> DriftVerdict:
    """Return whether the newest bars have left the regimes of the training windows.

    Args:
        bars: The newest bars, oldest first; of more than 209 the last 209 count.
        null: The training windows, at least one, the newest first, and what chance makes of them.
        departed_before: How many of the two evaluations before this one, over fewer bars, found that the
            key had departed.

    Raises:
        NonFinitePriceError: A price is NaN or infinite.
    """
    if len(bars) < MIN_WINDOW_BARS:
        return DriftVerdict(reason=DriftReason.NOT_ENOUGH_BARS, bars=len(bars))
    newest = _newest(bars)
    key_now = keys_of(newest)[-1]
    departed = null.has_left(key_now)
    measured = _measure(feature_rows(newest), null) if null.windows_apart >= MIN_DRIFT_SNAPSHOTS else None
    keys_then = tuple(dict.fromkeys(window.regime_key for window in null.training))
    calm = DriftReason.STABLE if key_now in keys_then else DriftReason.KEY_DIFFERS_BY_CHANCE
    verdict = DriftVerdict(
        reason=_alarm(measured, departed, departed_before) or (calm if measured else _unmeasured(null)),
        key_now=key_now,
        keys_then=keys_then,
        departed=departed,
        key_share=null.key_share(key_now),
        snapshots=len(null.training),
        windows_apart=null.windows_apart,
        bars=int(newest.n_bars[-1]),
        seed=null.seed,
    )
    return verdict if measured is None else _with_distance(verdict, measured, null)


def _newest(bars: PriceBars) -> RegimeSnapshots:
    """Return the regimes at the newest ten bars, or at as many as end a window of 50 bars."""
    ends = np.arange(max(MIN_WINDOW_BARS, len(bars) - DRIFT_FAR_BARS + 1), len(bars) + 1)
    return compute_regime_snapshots(bars, np.maximum(ends - MAX_WINDOW_BARS, 0), ends)


def _measure(features: Floats, null: DriftNull) -> _Distance | None:
    """Hold the newest bars, shape (8, bars), against the null; None where too few features are known."""
    now = null.distances(features)
    if not np.isfinite(now).all():
        return None
    nearer = null.share_nearer(now)
    return _Distance(
        value=float(now[-1]),
        percentile=100 * float(nearer[-1]),
        is_far=(nearer >= 1 - DRIFT_RARE_SHARE).tolist(),
        moved=_moved(features[:, -1], null),
    )


def _moved(now: Floats, null: DriftNull) -> tuple[MovedFeature, ...]:
    """Return the features that make up most of the distance from the nearest training snapshot."""
    snapshots = np.array([window.features for window in null.training])
    then = snapshots[np.argmin(distances(snapshots.T, now, null.scales))]
    sizes = np.nan_to_num((now - then) / null.scales)
    order = np.argsort(-np.abs(sizes), kind="stable")[:MOVED_FEATURES].tolist()
    return tuple(
        MovedFeature(DISTANCE_FEATURES[at], float(then[at]), float(now[at]), float(sizes[at]))
        for at in order
        if sizes[at]
    )


def _alarm(measured: _Distance | None, departed: bool, departed_before: int) -> DriftReason | None:
    """Return what speaks for drift, the strongest first; None where nothing does."""
    is_far = measured.is_far if measured else [False]
    if len(is_far) == DRIFT_FAR_BARS and all(is_far):
        return DriftReason.DISTANCE_BEYOND_NULL
    if departed and departed_before + 1 >= DRIFT_CONSECUTIVE:
        return DriftReason.KEY_CHANGED
    return DriftReason.UNCONFIRMED if departed or is_far[-1] else None


def _unmeasured(null: DriftNull) -> DriftReason:
    """Return why there is no distance."""
    if null.windows_apart >= MIN_DRIFT_SNAPSHOTS:
        return DriftReason.FEATURES_UNDEFINED
    if windows_apart(null.training) >= MIN_DRIFT_SNAPSHOTS:
        return DriftReason.TRAINING_BARS_MISSING
    return DriftReason.TOO_FEW_TRAINING_SNAPSHOTS


def _with_distance(verdict: DriftVerdict, measured: _Distance, null: DriftNull) -> DriftVerdict:
    return replace(
        verdict,
        distance=measured.value,
        limit=null.limit if np.isfinite(null.limit) else None,
        null_percentile=measured.percentile,
        moved=measured.moved,
    )
