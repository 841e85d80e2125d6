"""The interval of a median: its bounds by hand, what clusters do to it, and how often it holds the truth."""

from itertools import product
from statistics import median

import numpy as np
import pytest

from kb_pipeline.domain.cluster_bootstrap import median_interval

APART = np.arange(9)


def test_values_that_are_all_the_same_have_an_interval_of_one_point() -> None:
    assert median_interval(np.full(6, 1.5), np.array([1, 1, 2, 2, 3, 3])) == (1.5, 1.5)


def test_two_clusters_give_the_quarters_of_their_four_draws() -> None:
    # The draws are both, the one twice and the other twice: medians 1, 1.5, 1.5 and 2, a quarter each.
    low, high = median_interval(np.array([1.0, 1.0, 2.0, 2.0]), np.array([7, 7, 9, 9]))
    assert (low, high) == (1.0, 2.0)


def test_the_bounds_are_those_of_all_draws_there_are() -> None:
    values, clusters = np.array([0.0, 4.0, 1.0, 2.0, 9.0]), np.array([0, 0, 1, 2, 2])
    members = [values[clusters == cluster] for cluster in range(3)]
    medians = [median(np.concatenate([members[it] for it in draw])) for draw in product(range(3), repeat=3)]
    low, high = median_interval(values, clusters, draws=20_000)
    assert [low, high] == np.quantile(medians, [0.025, 0.975], method="inverted_cdf").tolist()


def test_the_interval_does_not_depend_on_the_order_of_values_or_the_names_of_clusters() -> None:
    values, clusters = np.array([3.0, 1.0, 2.0, 5.0, 4.0, 7.0]), np.array([0, 0, 1, 1, 2, 2])
    once = median_interval(values, clusters)
    order = np.array([5, 3, 1, 0, 2, 4])
    assert median_interval(values[order], clusters[order] * 10 + 3) == once
    assert median_interval(values, clusters) == once, "it is seeded"
    assert median_interval(values, clusters, seed=2) != median_interval(values, np.arange(6), seed=2)


def test_many_draws_are_taken_in_parts_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=40)
    whole = median_interval(values, np.arange(40))
    monkeypatch.setattr("kb_pipeline.domain.cluster_bootstrap._WEIGHTS_AT_ONCE", 40 * 7)
    assert median_interval(values, np.arange(40)) == whole


def _share_that_hold_the_truth(symbols: int, worlds: int, *, by_symbol: bool = True) -> float:
    """Return how often the interval holds the true median, 0, of four tunes a symbol that go together."""
    random = np.random.default_rng(symbols)
    clusters = np.repeat(np.arange(symbols), 4)
    held = 0
    for _ in range(worlds):
        values = random.normal(size=symbols)[clusters] + random.normal(size=len(clusters))
        low, high = median_interval(values, clusters if by_symbol else np.arange(len(clusters)), draws=300)
        held += low <= 0 <= high
    return held / worlds


# Two standard errors of a share of 300 are 0.025 at 0.95 and 0.06 at 0.5.
@pytest.mark.parametrize(
    ("symbols", "at_least", "at_most"), [(2, 0.4, 0.6), (4, 0.70, 0.88), (10, 0.84, 0.94), (30, 0.91, 0.98)]
)
def test_the_interval_holds_the_truth_the_less_often_the_fewer_the_symbols(
    symbols: int, at_least: float, at_most: float
) -> None:
    assert at_least <= _share_that_hold_the_truth(symbols, 300) <= at_most


def test_tunes_drawn_one_by_one_would_promise_too_much() -> None:
    assert _share_that_hold_the_truth(30, 300, by_symbol=False) < 0.88
