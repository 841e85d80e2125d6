"""The interval of a median of values that come in clusters."""

import numpy as np
import numpy.typing as npt

from kb_pipeline.rules import BOOTSTRAP_DRAWS, BOOTSTRAP_SEED, INTERVAL_LEVEL

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_WEIGHTS_AT_ONCE = 200_000
"""What is drawn at once stays in the processor's cache, which is several times faster."""


def median_interval(
    values: Floats, clusters: Integers, *, draws: int = BOOTSTRAP_DRAWS, seed: int = BOOTSTRAP_SEED
) -> tuple[float, float]:
    """Return the percentile-bootstrap interval of the median when whole clusters are drawn.

    Values of one cluster stay together in every draw, so what they have in common widens the interval.
    The same values, clusters and seed give the same interval, whatever else is computed.

    Args:
        values: Finite, shape (n,), at least one.
        clusters: Any number that names the cluster of each value, same shape.
        draws: Times the clusters are drawn with replacement.
        seed: Of the random numbers.

    Source: Efron and Tibshirani, *An Introduction to the Bootstrap*, chapters 8 and 13.
    """
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    names, cluster_of = np.unique(clusters[order], return_inverse=True)
    random = np.random.default_rng(seed)
    at_once = max(1, _WEIGHTS_AT_ONCE // len(values))
    medians = []
    for begin in range(0, draws, at_once):
        times = _drawn(random, min(at_once, draws - begin), len(names))
        medians.append(_weighted_medians(ascending, np.take(times, cluster_of, axis=1)))
    tail = (1 - INTERVAL_LEVEL) / 2
    low, high = np.quantile(np.concatenate(medians), [tail, 1 - tail])
    return float(low), float(high)


def _drawn(random: np.random.Generator, draws: int, clusters: int) -> npt.NDArray[np.int32]:
    """Return how often each cluster comes up in each draw, shape (draws, clusters)."""
    picks = random.integers(clusters, size=(draws, clusters))
    picks += np.arange(draws)[:, None] * clusters
    counts = np.bincount(picks.ravel(), minlength=draws * clusters)
    return counts.reshape(draws, clusters).astype(np.int32)


def _weighted_medians(ascending: Floats, times: npt.NDArray[np.int32]) -> Floats:
    """Return the median of each draw: its middle value, or the mean of the two in the middle."""
    upto = np.cumsum(times, axis=1, dtype=np.int32)
    drawn = upto[:, -1:]
    lower = np.sum(upto < (drawn + 1) // 2, axis=1)
    upper = np.sum(upto < drawn // 2 + 1, axis=1)
    medians: Floats = (ascending[lower] + ascending[upper]) / 2
    return medians
