"""Match regimes: which regime keys a tier of `recommend` takes, how far apart two snapshots are, and why.

The tiers' order, confidences and caps are in rules.py. Reading candidates and walking the tiers is
the work of `questions`.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from kb_pipeline.errors import BadArgumentError
from kb_pipeline.rules import (
    DISTANCE_FEATURES,
    DISTANCE_SCALE_FLOORS,
    EFFICIENCY_TAGS_BY_PRIORITY,
    MAD_TO_STD,
    MIN_SHARED_FEATURES,
    READABLE_REGIME_SCHEMA_VERSIONS,
    REGIME_KEY_ABSENT,
    REGIME_KEY_SEPARATOR,
    TAG_RULESET_ID,
    TREND_TAGS_BY_PRIORITY,
    VOLATILITY_TAGS_BY_PRIORITY,
)

Floats = npt.NDArray[np.float64]

DIMENSIONS: Final = {
    "trend": (*TREND_TAGS_BY_PRIORITY, REGIME_KEY_ABSENT),
    "vol": (*VOLATILITY_TAGS_BY_PRIORITY, REGIME_KEY_ABSENT),
    "efficiency": (*EFFICIENCY_TAGS_BY_PRIORITY, REGIME_KEY_ABSENT),
}
"""What may stand in a regime key, by dimension; no tag is a value like any other."""

_FLOORS: Final = np.array(DISTANCE_SCALE_FLOORS)


# --- Keys --------------------------------------------------------------------------------------


class RegimeParts(NamedTuple):
    """The dimensions of a regime key, `_` where one has no tag."""

    trend: str
    vol: str
    efficiency: str

    @property
    def trend_tag(self) -> str | None:
        """The trend as the stored column has it."""
        return None if self.trend == REGIME_KEY_ABSENT else self.trend

    @property
    def vol_tag(self) -> str | None:
        """The volatility as the stored column has it."""
        return None if self.vol == REGIME_KEY_ABSENT else self.vol


@lru_cache(maxsize=1024)
def regime_parts(regime_key: str) -> RegimeParts:
    """Return the dimensions of a regime key.

    Raises:
        BadArgumentError: It is no key that a snapshot of a readable layout can have.
    """
    version, *rest = regime_key.split(REGIME_KEY_SEPARATOR)
    is_known = (
        version in READABLE_REGIME_SCHEMA_VERSIONS
        and len(rest) == 1 + len(DIMENSIONS)
        and rest[0] == TAG_RULESET_ID
        and all(tag in tags for tag, tags in zip(rest[1:], DIMENSIONS.values(), strict=True))
    )
    if not is_known:
        dimensions = "; ".join(f"{name}: {', '.join(tags)}" for name, tags in DIMENSIONS.items())
        versions = ", ".join(sorted(READABLE_REGIME_SCHEMA_VERSIONS))
        raise BadArgumentError(
            f"found the regime key {regime_key!r}, needed version|{TAG_RULESET_ID}|trend|vol|efficiency "
            f"with a version of {versions} and {dimensions}. kb-pipeline regimes lists those of a workspace."
        )
    return RegimeParts(*rest[1:])


def regime_keys(**fixed: str) -> list[str]:
    """Return every regime key with these tags, such as trend="uptrend"; without any, all there can be.

    Raises:
        BadArgumentError: A dimension has no such tag.
    """
    for name, tag in fixed.items():
        if tag not in DIMENSIONS[name]:
            raise BadArgumentError(f"found the {name} {tag!r}, needed one of {', '.join(DIMENSIONS[name])}.")
    tags = [[fixed[name]] if name in fixed else known for name, known in DIMENSIONS.items()]
    return [
        REGIME_KEY_SEPARATOR.join((version, TAG_RULESET_ID, *parts))
        for version in sorted(READABLE_REGIME_SCHEMA_VERSIONS, reverse=True)
        for parts in product(*tags)
    ]


@lru_cache(maxsize=1024)
def tier_keys(regime_key: str) -> Mapping[str, Sequence[str]]:
    """Return the keys that each tier by key takes; no key stands in two of them. The last tier takes any.

    Raises:
        BadArgumentError: As `regime_parts`.
    """
    parts = regime_parts(regime_key)
    taken = {regime_key}
    tiers = {"exact": [regime_key]}
    for tier, fixed in (
        ("partial_trend_vol", {"trend": parts.trend, "vol": parts.vol}),
        ("partial_trend", {"trend": parts.trend}),
        ("partial_vol", {"vol": parts.vol}),
    ):
        tiers[tier] = [key for key in regime_keys(**fixed) if key not in taken]
        taken.update(tiers[tier])
    return tiers


def matched_dimensions(asked: str, found: str | None) -> list[str]:
    """Return the dimensions in which two regime keys agree; none where one is no readable key."""
    return list(_matched(asked, found or ""))


@lru_cache(maxsize=4096)
def _matched(asked: str, found: str) -> tuple[str, ...]:
    try:
        pair = regime_parts(asked), regime_parts(found)
    except BadArgumentError:
        return ()
    return tuple(name for name, one, other in zip(DIMENSIONS, *pair, strict=True) if one == other)


# --- Distance ----------------------------------------------------------------------------------


class Contribution(NamedTuple):
    """A feature's part in a distance: the two values and its share of the squared distance, 0 to 1."""

    feature: str
    asked: float
    found: float
    share: float


def feature_vector(snapshot: Mapping[str, Any]) -> Floats:
    """Return the features of a stored snapshot that a distance takes, shape (8,), NaN where undefined.

    A feature that is named in `undefined_features` is missing whatever default is stored for it.
    """
    undefined = snapshot.get("undefined_features") or ()
    values = [None if name in undefined else snapshot.get(name) for name in DISTANCE_FEATURES]
    numbers = [float(it) if isinstance(it, int | float) else np.nan for it in values]
    vector = np.array(numbers)
    vector[~np.isfinite(vector)] = np.nan
    return vector


def robust_scales(features: Iterable[npt.NDArray[np.floating]]) -> Floats:
    """Return 1.4826 times the median absolute deviation of each feature, no lower than its floor.

    Args:
        features: For each feature its values over all snapshots, NaN where undefined.
    """
    scales = np.array([_scale(values[~np.isnan(values)]) for values in features])
    floored: Floats = np.maximum(scales, _FLOORS)
    return floored


def _scale(values: npt.NDArray[np.floating]) -> float:
    if not len(values):
        return 0.0
    deviations = np.abs(values - np.median(values))
    return MAD_TO_STD * float(np.median(deviations))


def distances(features: npt.NDArray[np.floating], asked: Floats, scales: Floats) -> Floats:
    """Return the distance of each snapshot from the one asked about, shape (snapshots,).

    Euclidean over standardised features. A feature that either of the two lacks says nothing about
    them: it is left out and the sum over the others scaled up to all eight, so that snapshots with
    gaps are neither near nor far for it. With fewer than four shared features there is no distance,
    which is infinity here.

    Args:
        features: Shape (8, snapshots), NaN where undefined.
        asked: Shape (8,), NaN where undefined.
        scales: Shape (8,), as `robust_scales` gives them.
    """
    squares = np.square((features - asked[:, np.newaxis]) / scales[:, np.newaxis])
    is_known = ~np.isnan(squares)
    shared = is_known.sum(axis=0)
    total = squares.sum(axis=0, where=is_known) * (len(asked) / np.maximum(shared, 1))
    apart: Floats = np.where(shared >= MIN_SHARED_FEATURES, np.sqrt(total), np.inf)
    return apart


def largest_contributions(asked: Floats, found: Floats, scales: Floats, count: int = 3) -> list[Contribution]:
    """Return the features that make up most of a distance, largest first; none where it is zero."""
    squares = np.square((found - asked) / scales)
    total = np.nansum(squares)
    if not total > 0:
        return []
    order = np.argsort(-np.nan_to_num(squares), kind="stable")[:count]
    return [
        Contribution(DISTANCE_FEATURES[at], float(asked[at]), float(found[at]), float(squares[at] / total))
        for at in order.tolist()
        if squares[at] > 0
    ]


# --- Words -------------------------------------------------------------------------------------


def contributions_text(contributions: Sequence[Contribution]) -> str:
    """Return a few words about what makes up a distance, such as `rsi 55 to 61 (72 %)`."""
    return ", ".join(
        f"{it.feature} {it.asked:.3g} to {it.found:.3g} ({it.share:.0%})" for it in contributions
    )
