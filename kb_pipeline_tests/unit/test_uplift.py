"""Uplift: worked out by hand, and against a slow and obvious measurement."""

import math
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kb_pipeline.domain.uplift import REASONS, Trials, Tunes, Uplifts, combined, measure_uplifts
from kb_pipeline.rules import UPLIFT_TIERS, UpliftUnknown
from kb_pipeline_tests.unit.test_leave_one_out import means_of, slow_choice

A, B, C = 0, 1, 2
UP_HIGH, UP_LOW, DOWN_HIGH, DOWN_LOW = (0, 0), (0, 1), (1, 0), (1, 1)
Regime = tuple[int, int]
"""Trend and volatility; together they are the key here."""


def _measured(
    tunes: Sequence[Sequence[tuple[int, float]]],
    regimes: Sequence[Regime | None],
    *,
    pools: Sequence[int] | None = None,
    declared: int = -1,
    in_sample: float = math.nan,
) -> Uplifts:
    """Measure tunes given by their trials; each score in sample is `in_sample` above that out of sample."""
    trials = [trial for of_tune in tunes for trial in of_tune]
    scores = np.array([score for _, score in trials], dtype=np.float64)
    return measure_uplifts(
        Tunes(
            pools=np.array(pools or [0] * len(tunes)),
            regimes=np.array([-1 if it is None else 10 * it[0] + it[1] for it in regimes]),
            trends=np.array([-1 if it is None else it[0] for it in regimes]),
            volatilities=np.array([-1 if it is None else it[1] for it in regimes]),
            declared=np.full(len(tunes), declared),
        ),
        Trials(
            tunes=np.repeat(np.arange(len(tunes)), [len(of_tune) for of_tune in tunes]),
            sets=np.array([params for params, _ in trials], dtype=np.int64),
            scores=scores,
            scores_in_sample=scores + in_sample,
        ),
    )


def _told(uplifts: Uplifts) -> list[float | str]:
    """Return the uplift of each tune, or the reason it has none."""
    return [
        float(uplift) if reason < 0 else str(REASONS[reason])
        for uplift, reason in zip(uplifts.uplifts, uplifts.reasons, strict=True)
    ]


def _tiers(uplifts: Uplifts) -> list[str | None]:
    return [UPLIFT_TIERS[tier] if tier >= 0 else None for tier in uplifts.tiers]


FOUR = [
    [(A, 3.0), (B, 1.0)],
    [(A, 4.0), (B, 2.0)],
    [(A, 0.0), (B, 6.0)],
    [(A, 0.5), (B, 8.0)],
]
"""A is best in the first two, B in the last two, and B over all."""


def test_uplift_is_what_the_regime_s_set_scored_minus_what_the_baseline_did() -> None:
    uplifts = _measured(FOUR, [UP_HIGH, UP_HIGH, DOWN_LOW, DOWN_LOW])
    # Each tune's regime holds one other: A for the first two, B for the last two. Whatever the regime,
    # the others have A 4.5/3 and B 16/3, A 3.5/3 and B 15/3, A 7.5/3 and B 11/3, A 7/3 and B 9/3: B.
    assert _told(uplifts) == [2.0, 2.0, 0.0, 0.0]
    assert uplifts.same.tolist() == [False, False, True, True]
    assert uplifts.over_blind.tolist() == [2.0, 2.0, 0.0, 0.0], "the baseline is the set best anywhere"
    assert _tiers(uplifts) == ["exact"] * 4


def test_a_declared_default_is_the_baseline_where_a_trial_used_it() -> None:
    tunes = [*FOUR, [(A, 1.0), (B, 1.0), (C, math.nan)], [(A, 1.0), (C, -1.0)]]
    regimes = [UP_HIGH, UP_HIGH, DOWN_LOW, DOWN_LOW, UP_HIGH, UP_HIGH]
    uplifts = _measured(tunes, regimes, declared=C)
    # The fifth used the default and has no score for it, which no other set replaces. The sixth has -1
    # with it and 1 with A, which is best in the other tunes of its regime.
    assert _told(uplifts)[4:] == ["unknown_baseline", 2.0]
    assert uplifts.by_default.tolist() == [False] * 4 + [True, True]
    assert math.isnan(uplifts.over_blind[5]), "best anywhere is B, which the sixth did not try"
    assert _told(uplifts)[:2] == [2.0, 2.0], "tunes that did not try the default are as before"


def test_without_another_tune_of_the_regime_one_like_it_is_asked_from_tier_to_tier() -> None:
    tunes = [[(A, 1.0), (B, 2.0)], [(A, 3.0), (B, 0.0)], [(A, 5.0), (B, 1.0)], [(A, 0.0), (B, 9.0)]]
    # The first shares the trend with the second alone, and the volatility with the third alone.
    uplifts = _measured(tunes, [UP_HIGH, UP_LOW, DOWN_HIGH, (2, 2)])
    assert _tiers(uplifts) == ["partial_trend", "partial_trend", "partial_vol", None]
    # Blind, the others have A 8/3 and B 10/3; A 2 and B 4; A 4/3 and B 11/3; A 3 and B 1.
    assert _told(uplifts) == [1.0 - 2.0, 0.0, 0.0, "no_like_regime"]


def test_the_key_s_other_half_counts_before_the_trend_alone() -> None:
    trials = [(A, 1.0), (B, 2.0)]
    tunes = Tunes(*(np.array(it) for it in ([0, 0, 0], [7, 8, 9], [1, 1, 1], [2, 2, 3], [-1, -1, -1])))
    scored = Trials(
        np.repeat(np.arange(3), 2), np.array([A, B] * 3), np.array([s for _, s in trials] * 3), np.zeros(6)
    )
    assert _tiers(measure_uplifts(tunes, scored)) == [
        "partial_trend_vol",
        "partial_trend_vol",
        "partial_trend",
    ]


def test_a_regime_that_shares_no_set_is_passed_over_and_one_whose_best_was_not_tried_is_not() -> None:
    tunes = [[(A, 1.0)], [(B, 1.0)], [(A, 2.0)], [(A, 3.0)], [(A, 3.0), (C, 9.0)], [(A, 0.0)]]
    regimes = [UP_HIGH, UP_HIGH, UP_LOW, DOWN_LOW, DOWN_LOW, None]
    uplifts = _measured(tunes, regimes, declared=A)
    # The first shares nothing with the second and goes on by trend, where A has 2 and B 1. The fourth's
    # regime did best with C, which it did not try.
    assert _told(uplifts)[0] == 0.0
    assert _tiers(uplifts)[0] == "partial_trend"
    assert _told(uplifts)[3] == "selected_not_tried"


def test_every_tune_without_an_uplift_has_the_first_reason_that_holds() -> None:
    tunes = [*FOUR, [], [(A, math.nan)], [(C, 1.0)], [(A, 1.0), (B, 2.0)], [(A, 1.0), (B, 1.0)]]
    regimes = [UP_HIGH, UP_HIGH, DOWN_LOW, DOWN_LOW, UP_HIGH, UP_HIGH, UP_HIGH, None, (9, 9)]
    assert _told(_measured(tunes, regimes))[4:] == [
        UpliftUnknown.NO_SCORE,
        UpliftUnknown.NO_SCORE,
        UpliftUnknown.UNKNOWN_BASELINE,
        UpliftUnknown.NOT_ATTRIBUTED,
        UpliftUnknown.NO_LIKE_REGIME,
    ]


def test_scores_of_another_pool_take_no_part() -> None:
    tunes = [*FOUR, [(A, 90.0), (B, -90.0)], [(A, 90.0), (B, -90.0)]]
    regimes = [UP_HIGH, UP_HIGH, DOWN_LOW, DOWN_LOW, DOWN_LOW, UP_HIGH]
    apart = _measured(tunes, regimes, pools=[0, 0, 0, 0, 1, 1])
    assert _told(apart)[:4] == [2.0, 2.0, 0.0, 0.0]
    assert _told(_measured(tunes, regimes))[:4] != [2.0, 2.0, 0.0, 0.0]


def test_the_gap_is_in_sample_minus_out_of_sample_with_the_set_the_regime_suggests() -> None:
    tunes = [[(A, 3.0), (B, 1.0), (A, math.nan)], *FOUR[1:]]  # a trial without a score has no gap either
    uplifts = _measured(tunes, [UP_HIGH, UP_HIGH, DOWN_LOW, None], in_sample=0.75)
    assert uplifts.gaps.tolist()[:2] == [0.75, 0.75]
    assert np.isnan(uplifts.gaps[2:]).all(), "no uplift, no gap"
    assert np.isnan(_measured(FOUR, [UP_HIGH] * 4).gaps).all(), "no score in sample, no gap"


def test_nothing_at_all_is_measured_too() -> None:
    assert _told(_measured([], [])) == []
    assert _told(_measured([[]], [UP_HIGH])) == ["no_score"]


def test_combined_numbers_rows_that_are_alike_and_none_with_an_absent_part() -> None:
    first, second = np.array([0, 0, 1, 1, -1]), np.array([2, 2, 2, -1, 2])
    numbers = combined(first, second).tolist()
    assert numbers[0] == numbers[1] != numbers[2]
    assert numbers[3:] == [-1, -1]


SCORES = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 2.0, math.nan])
TRIALS = st.lists(st.tuples(st.integers(0, 3), SCORES), max_size=5)
REGIMES = st.one_of(st.none(), st.tuples(st.integers(0, 2), st.integers(0, 1)))


def _slow(
    tunes: list[list[tuple[int, float]]],
    regimes: list[Regime | None],
    pools: list[int],
    declared: int,
    number: int,
) -> float | str:
    own, regime = means_of(tunes[number]), regimes[number]
    if regime is None:
        return "not_attributed"
    if not own:
        return "no_score"
    baseline = slow_choice(tunes, pools, number)
    if declared in {params for params, _ in tunes[number]}:
        baseline = declared if declared in own else "no score with it"
    if isinstance(baseline, str):
        return "unknown_baseline"
    for like in (
        lambda other: other == regime,
        lambda other: other[0] == regime[0],
        lambda other: other[1] == regime[1],
    ):
        group = [
            0 if other is not None and like(other) and pool == pools[number] else -1
            for other, pool in zip(regimes, pools, strict=True)
        ]
        selected = slow_choice(tunes, group, number)
        if selected == "not tried":
            return "selected_not_tried"
        if isinstance(selected, int):
            return own[selected] - own[baseline]
    return "no_like_regime"


@given(st.lists(st.tuples(TRIALS, REGIMES, st.integers(0, 1)), min_size=1, max_size=10), st.integers(-1, 3))
def test_the_uplift_is_that_of_a_slow_and_obvious_measurement(
    drawn: list[tuple[list[tuple[int, float]], Regime | None, int]], declared: int
) -> None:
    tunes, regimes, pools = (list(column) for column in zip(*drawn, strict=True))
    found = _told(_measured(tunes, regimes, pools=pools, declared=declared))
    assert found == [_slow(tunes, regimes, pools, declared, number) for number in range(len(tunes))]
