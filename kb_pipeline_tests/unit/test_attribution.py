"""The regime of a stored snapshot and the leave-one-out baseline, against a slow and obvious one."""

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb_pipeline.domain.attribution import ParameterScores, RegimeIdentity, SummedSets, regime_identity

Tunes = list[list[tuple[int, float | None]]]
"""Of each tune its trials: hash of the parameters and score, None for none."""


def _means(trials: list[tuple[int, float | None]]) -> dict[int, float]:
    """Return the mean score of each parameter set of a tune."""
    scores: dict[int, list[float]] = defaultdict(list)
    for params, score in trials:
        if score is not None:
            scores[params].append(score)
    return {params: sum(found) / len(found) for params, found in scores.items()}


def _parameter_scores(
    tunes: Tunes, declared: int | None = None, later: frozenset[int] = frozenset()
) -> ParameterScores:
    """Sum up as the statements do: odd and even tunes apart."""
    halves = []
    for half in (0, 1):
        counted = [number for number in range(half, len(tunes), 2) if number not in later]
        trials = [(row, *trial) for row, number in enumerate(counted) for trial in tunes[number]]
        rows, params, scores = zip(*trials, strict=True) if trials else ((), (), ())
        halves.append(
            SummedSets.of(
                np.array(rows, dtype=np.int64),
                np.array(params, dtype=np.int64),
                np.array([math.nan if score is None else score for score in scores], dtype=np.float64),
                counted=np.array(counted, dtype=np.int64),
            )
        )
    return ParameterScores.of(SummedSets.joined(halves), declared_default=declared)


def _baselines(
    tunes: Tunes, declared: int | None = None, later: frozenset[int] = frozenset()
) -> list[float | None]:
    numbers = [number for number, trials in enumerate(tunes) for _ in trials]
    trials = [trial for of_tune in tunes for trial in of_tune]
    found = _parameter_scores(tunes, declared, later=later).baselines(
        np.arange(len(tunes)),
        np.array(numbers, dtype=np.int64),
        np.array([params for params, _ in trials], dtype=np.int64),
        np.array([math.nan if score is None else score for _, score in trials], dtype=np.float64),
    )
    return [None if math.isnan(value) else value for value in found.tolist()]


def _slow_baseline(tunes: Tunes, number: int, declared: int | None) -> float | None:
    own = _means(tunes[number])
    if declared is not None and declared in {params for params, _ in tunes[number]}:
        return own.get(declared)
    others: dict[int, list[float]] = defaultdict(list)
    for other, trials in enumerate(tunes):
        for params, mean in _means(trials).items() if other != number else ():
            others[params].append(mean)
    if not others:
        return None
    means = {params: round(sum(scores) / len(scores), 12) for params, scores in others.items()}
    best = min(means, key=lambda params: (-means[params], params not in own, params))
    return own.get(best)


def test_the_baseline_is_the_set_that_did_best_in_the_other_tunes() -> None:
    # set 1: 1.0 and 3.0 elsewhere; set 2: 2.5 and 1.0
    tunes = [[(1, 9.0), (2, 0.5)], [(1, 1.0), (2, 2.5)], [(1, 3.0), (2, 1.0)]]
    # without tune 0: set 1 has mean 2.0, set 2 1.75 -> what tune 0 scored with set 1
    assert _baselines(tunes)[0] == 9.0
    # without tune 1: set 1 has mean 6.0 -> 1.0; without tune 2: set 1 has mean 5.0 -> 3.0
    assert _baselines(tunes)[1:] == [1.0, 3.0]


def test_a_tune_that_did_not_try_the_baseline_has_none() -> None:
    assert _baselines([[(1, 1.0)], [(2, 5.0), (1, 0.0)]])[0] is None


def test_a_lonely_tune_has_no_baseline() -> None:
    assert _baselines([[(1, 1.0), (2, 2.0)]]) == [None]


def test_declared_defaults_are_the_baseline_where_they_were_tried() -> None:
    tunes = [[(1, 1.0), (7, -2.0)], [(1, 5.0)]]
    assert _baselines(tunes, declared=7) == [-2.0, 5.0]


def test_a_default_that_was_tried_and_has_no_score_leaves_the_baseline_unknown() -> None:
    assert _baselines([[(7, None), (1, 0.5)], [(1, 2.0)]], declared=7)[0] is None


def test_a_set_tried_often_in_one_tune_counts_once_there() -> None:
    # set 1 has mean (1 + 5) / 2 = 3 over two tunes, set 2 has 2 in one; pooled trials would tie at 2
    others: Tunes = [[(1, 1.0), (1, 1.0), (1, 1.0), (2, 2.0)], [(1, 5.0)]]
    assert _baselines([[(1, 10.0), (2, 20.0)], *others])[0] == 10.0


def test_of_a_tune_that_completed_after_the_sums_were_made_nothing_is_taken_out() -> None:
    tunes: Tunes = [[(1, 1.0), (2, 0.9)], [(1, 1.0), (2, 0.9)], [(1, 5.0), (2, -5.0)]]
    assert _baselines(tunes, later=frozenset({2}))[2] == 5.0


def test_means_that_differ_by_the_order_of_adding_are_a_tie() -> None:
    # 0.1 + 0.2 + 0.3 is 0.6000000000000001, 0.3 + 0.2 + 0.1 is 0.6: set 1 wins by its hash
    tunes: Tunes = [[(1, 7.0), (2, 8.0)], [(1, 0.3), (2, 0.1)], [(1, 0.2), (2, 0.2)], [(1, 0.1), (2, 0.3)]]
    assert _baselines(tunes)[0] == 7.0


def test_tunes_without_scored_trials_have_no_baseline() -> None:
    assert _baselines([[], [(1, 1.0)], []]) == [None, None, None]


# scores on a grid of eighths: their sums are exact, so that ties are ties in both computations
score = st.one_of(st.none(), st.integers(-40, 40).map(lambda eighths: eighths / 8))
trial = st.tuples(st.integers(-3, 6), score)


@given(
    tunes=st.lists(st.lists(trial, max_size=6), min_size=1, max_size=8),
    declared=st.one_of(st.none(), st.integers(-3, 6)),
)
def test_baselines_are_those_of_the_obvious_computation(tunes: Tunes, declared: int | None) -> None:
    expected = [_slow_baseline(tunes, number, declared) for number in range(len(tunes))]
    assert _baselines(tunes, declared) == pytest.approx(expected)


def test_a_stored_snapshot_gives_its_regime() -> None:
    identity = regime_identity('"regime_v1_1"', '["uptrend", "noisy", "high_vol", "oversold"]')
    assert isinstance(identity, RegimeIdentity)
    assert identity.regime_key == "regime_v1_1|default_v1|uptrend|high_vol|noisy"
    assert identity.fingerprint == "174543d5f644dec70938f49d47d0d548597b8e12021fd5a8609278a7fac68c50"
    assert (identity.trend_tag, identity.vol_tag, identity.efficiency_tag) == ("uptrend", "high_vol", "noisy")


def test_an_old_schema_version_is_readable_and_stands_in_the_key() -> None:
    identity = regime_identity('"regime_v1"', "[]")
    assert isinstance(identity, RegimeIdentity)
    assert identity.regime_key == "regime_v1|default_v1|_|_|_"


@pytest.mark.parametrize(
    ("version", "tags", "complaint"),
    [
        (None, "[]", "schema_version is absent"),
        ("1", "[]", "schema_version is 1"),
        ('"regime_v9"', "[]", 'schema_version is "regime_v9"'),
        ('"regime_v1_1"', None, "regime_tags is absent, not a list of tags"),
        ('"regime_v1_1"', '"uptrend"', 'regime_tags is "uptrend", not a list of tags'),
        ('"regime_v1_1"', "[1]", "regime_tags is [1], not a list of tags"),
        ('"regime_v1_1"', '["uptrend", "downtrend"]', "regime_tags holds both uptrend and downtrend"),
        ("1" + "0" * 5000, "[]", "schema_version is 1" + "0" * 79),
        ('"regime_v1_1"', "[" * 7000 + "]" * 7000, f"regime_tags is {'[' * 80}, not a list of tags"),
    ],
)
def test_what_is_no_regime_is_said_in_words(version: str | None, tags: str | None, complaint: str) -> None:
    assert regime_identity(version, tags) == complaint


def test_uptrend_beside_trending_is_no_contradiction() -> None:
    identity = regime_identity('"regime_v1_1"', '["trending", "uptrend"]')
    assert isinstance(identity, RegimeIdentity)
    assert identity.trend_tag == "uptrend"
