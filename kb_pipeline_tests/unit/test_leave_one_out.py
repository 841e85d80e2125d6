"""The best set elsewhere: worked out by hand, against a slow and obvious choice, and as the baseline."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb_pipeline.domain.attribution import ParameterScores, SummedSets
from kb_pipeline.domain.leave_one_out import best_elsewhere, own_scores

Trials = Sequence[tuple[int, float]]
"""Of one tune, the parameter set and the score of each trial, NaN for none."""


def means_of(trials: Trials) -> dict[int, float]:
    """Return the mean score of each parameter set of a tune."""
    scores: dict[int, list[float]] = defaultdict(list)
    for params, score in trials:
        if not math.isnan(score):
            scores[params].append(score)
    return {params: sum(found) / len(found) for params, found in scores.items()}


def slow_choice(tunes: Sequence[Trials], group: Sequence[int], number: int) -> int | str:
    """Return the set that did best in the other tunes of the group, or why none is chosen."""
    own = means_of(tunes[number])
    others: dict[int, list[float]] = defaultdict(list)
    for other, trials in enumerate(tunes):
        if group[other] == group[number] >= 0 and other != number:
            for params, mean in means_of(trials).items():
                others[params].append(mean)
    if not own.keys() & others.keys():
        return "nothing to compare"
    means = {params: round(sum(scores) / len(scores), 12) for params, scores in others.items()}
    best = min(means, key=lambda params: (-means[params], params not in own, params))
    return best if best in own else "not tried"


def _choices(tunes: Sequence[Trials], groups: Sequence[int]) -> list[int | str]:
    trials = [trial for of_tune in tunes for trial in of_tune]
    own = own_scores(
        np.repeat(np.arange(len(tunes)), [len(of_tune) for of_tune in tunes]),
        np.array([params for params, _ in trials], dtype=np.int64),
        np.array([score for _, score in trials], dtype=np.float64),
    )
    choice = best_elsewhere(own, np.array(groups, dtype=np.int64))
    return [
        int(own.sets[row]) if row >= 0 else ("not tried" if compared else "nothing to compare")
        for row, compared in zip(choice.rows, choice.compared, strict=True)
    ]


A, B, C = 0, 1, 2


def test_the_choice_is_the_set_that_did_best_in_the_other_tunes_of_the_group() -> None:
    tunes = [
        [(A, 9.0), (B, 0.0)],  # elsewhere A has (1 + 2) / 2 = 1.5 and B (2 + 4) / 2 = 3
        [(A, 1.0), (B, 2.0)],  # elsewhere A has (9 + 2) / 2 = 5.5 and B (0 + 4) / 2 = 2
        [(A, 2.0), (B, 4.0)],  # elsewhere A has (9 + 1) / 2 = 5 and B 1
    ]
    assert _choices(tunes, [0, 0, 0]) == [B, A, A]
    # Alone with the third tune, the first sees A at 2 and B at 4; the second is in no group.
    assert _choices(tunes, [5, -1, 5]) == [B, "nothing to compare", A]


def test_a_set_that_was_not_tried_is_never_chosen_and_never_passed_over() -> None:
    tunes = [[(A, 1.0)], [(A, 1.0), (B, 2.0)], [(C, 3.0)]]
    # The first sees A at 1, B at 2 and C at 3, and tried A alone; nobody else tried C.
    assert _choices(tunes, [0, 0, 0]) == ["not tried", "not tried", "nothing to compare"]
    assert _choices(tunes, [0, 0, 1]) == ["not tried", A, "nothing to compare"]


def test_of_equal_means_a_set_that_was_tried_comes_first_and_then_the_lower_number() -> None:
    sums = [0.1 + 0.2, 0.3]  # 0.30000000000000004 and 0.3: equal but for the order of adding
    tunes = [[(B, 5.0), (C, 7.0)], [(A, sums[1]), (B, sums[0]), (C, sums[1])]]
    assert _choices(tunes, [0, 0])[0] == B


def test_the_trials_of_one_set_count_once_with_their_mean_and_those_without_a_score_not_at_all() -> None:
    tunes = [[(A, 1.0), (B, 1.0)], [(A, 0.0), (A, 4.0), (B, 3.0), (C, math.nan)], [(A, 0.0), (B, 0.0)]]
    # elsewhere A has ((0 + 4) / 2 + 0) / 2 = 1 and B (3 + 0) / 2 = 1.5
    assert _choices(tunes, [0, 0, 0])[0] == B


SCORES = st.sampled_from([-1.0, 0.0, 0.1, 0.2, 0.30000000000000004, 0.3, 2.0, math.nan])
TRIALS = st.lists(st.tuples(st.integers(0, 5), SCORES), max_size=7)
TUNES = st.lists(st.tuples(TRIALS, st.integers(-1, 2)), min_size=1, max_size=9)


@given(TUNES)
def test_the_choice_is_that_of_a_slow_and_obvious_one(drawn: list[tuple[Trials, int]]) -> None:
    tunes, groups = [trials for trials, _ in drawn], [group for _, group in drawn]
    assert _choices(tunes, groups) == [slow_choice(tunes, groups, number) for number in range(len(tunes))]


@given(TUNES)
def test_in_one_group_of_all_the_choice_scores_what_the_stored_baseline_does(
    drawn: list[tuple[Trials, int]],
) -> None:
    tunes = [trials for trials, _ in drawn]
    means = [means_of(trials) for trials in tunes]
    chosen = _choices(tunes, [0] * len(tunes))
    expected = [
        own.get(choice, math.nan) if isinstance(choice, int) else math.nan
        for own, choice in zip(means, chosen, strict=True)
    ]
    numbers = np.arange(len(tunes))
    flat = [trial for of_tune in tunes for trial in of_tune]
    trials = (
        np.repeat(numbers, [len(of_tune) for of_tune in tunes]),
        np.array([params for params, _ in flat], dtype=np.int64),
        np.array([score for _, score in flat], dtype=np.float64),
    )
    scores = ParameterScores.of(SummedSets.of(*trials, counted=numbers))
    found = scores.baselines(numbers, *trials)
    assert found.tolist() == pytest.approx(expected, nan_ok=True)  # sums differ by the order of adding
