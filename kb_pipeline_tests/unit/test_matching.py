"""Tiers take the right keys, and distances are what a hand gets."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kb_pipeline.domain.matching import (
    DIMENSIONS,
    contributions_text,
    distances,
    feature_vector,
    largest_contributions,
    matched_dimensions,
    regime_keys,
    regime_parts,
    robust_scales,
    tier_keys,
)
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.rules import DISTANCE_FEATURES, DISTANCE_SCALE_FLOORS, TIERS

KEY = "regime_v1_1|default_v1|uptrend|high_vol|efficient"
ONES = np.ones(8)
NAN = math.nan


# --- Keys ----------------------------------------------------------------------------------------


def test_a_tier_takes_the_keys_that_the_ones_before_it_left() -> None:
    tiers = tier_keys(KEY)
    # per layout: 3 efficiencies, 3 x 3 keys of a trend, 5 x 3 of a volatility
    assert {tier: len(keys) for tier, keys in tiers.items()} == {
        "exact": 1,
        "partial_trend_vol": 2 * 3 - 1,
        "partial_trend": 2 * (9 - 3),
        "partial_vol": 2 * (15 - 3),
    }
    by_key = [key for keys in tiers.values() for key in keys]
    assert len(set(by_key)) == len(by_key)


def test_tiers_share_what_their_names_say() -> None:
    tiers = tier_keys(KEY)
    assert {key.rpartition("|")[0].split("|", 2)[2] for key in tiers["partial_trend_vol"]} == {
        "uptrend|high_vol"
    }
    assert {regime_parts(key).trend for key in tiers["partial_trend"]} == {"uptrend"}
    assert "high_vol" not in {regime_parts(key).vol for key in tiers["partial_trend"]}
    assert {regime_parts(key).vol for key in tiers["partial_vol"]} == {"high_vol"}
    assert "uptrend" not in {regime_parts(key).trend for key in tiers["partial_vol"]}


def test_no_tag_matches_no_tag() -> None:
    assert tier_keys("regime_v1_1|default_v1|_|_|noisy")["partial_trend_vol"][0].split("|")[2:4] == ["_", "_"]


def test_the_tiers_walked_are_those_with_keys_the_distance_and_the_one_that_takes_any() -> None:
    assert set(TIERS) == {*tier_keys(KEY), "distance", "global_best"}


@pytest.mark.parametrize(
    "key",
    [
        "",
        "uptrend|high_vol|efficient",
        "regime_v9|default_v1|uptrend|high_vol|efficient",
        "regime_v1_1|other|uptrend|high_vol|efficient",
        "regime_v1_1|default_v1|high_vol|uptrend|efficient",
        "regime_v1_1|default_v1|uptrend|high_vol|efficient|more",
        "regime_v1_1|default_v1|uptrend|high_vol|None",
    ],
)
def test_a_key_that_no_snapshot_has_is_refused_with_what_may_stand_in_one(key: str) -> None:
    with pytest.raises(BadArgumentError, match="trend: uptrend, downtrend, trending, flat, _") as refused:
        regime_parts(key)
    assert repr(key) in str(refused.value)


def test_an_unknown_tag_is_refused_by_its_dimension() -> None:
    with pytest.raises(BadArgumentError, match="found the vol 'medium', needed one of high_vol, low_vol, _"):
        regime_keys(vol="medium")


@pytest.mark.parametrize(
    ("found", "agreeing"),
    [
        (KEY, ["trend", "vol", "efficiency"]),
        ("regime_v1|default_v1|uptrend|_|efficient", ["trend", "efficiency"]),
        ("regime_v1_1|default_v1|flat|low_vol|noisy", []),
        ("a key of another ruleset", []),
        (None, []),
    ],
)
def test_dimensions_agree_where_their_tags_do(found: str | None, agreeing: list[str]) -> None:
    assert matched_dimensions(KEY, found) == agreeing


# --- Distance ------------------------------------------------------------------------------------


def test_scales_are_robust_and_never_below_their_floors() -> None:
    # rsi: median 50, deviations 20 10 0 10 900, their median 10
    values = [[0.01] * 5] * 6 + [[30.0, 40.0, 50.0, 60.0, 950.0], [NAN] * 5]
    scales = robust_scales(np.array(values))
    assert scales[6] == pytest.approx(14.826)
    assert scales[[0, 4, 7]].tolist() == [DISTANCE_SCALE_FLOORS[at] for at in (0, 4, 7)]


def test_undefined_values_take_no_part_in_a_scale() -> None:
    values = np.array([[NAN, 30.0, 40.0, 50.0, 60.0, 70.0]] * 8)
    assert robust_scales(values)[6] == pytest.approx(14.826)


def test_a_distance_is_euclidean_over_scaled_features() -> None:
    asked, found = np.zeros(8), np.zeros((8, 2))
    found[0], found[1] = [3.0, 0.0], [8.0, 0.0]
    scales = np.array([1.0, 2.0, *[1.0] * 6])
    # (3 / 1)^2 + (8 / 2)^2 = 25
    assert distances(found, asked, scales).tolist() == [5.0, 0.0]


def test_a_gap_on_either_side_scales_the_rest_up() -> None:
    found = np.array([[3.0], [0.0], [0.0], [0.0], [0.0], [0.0], [NAN], [NAN]])
    asked = np.array([0.0, 0.0, 0.0, 0.0, NAN, NAN, 0.0, 0.0])
    # four of eight features are shared: sqrt(9 * 8 / 4)
    assert distances(found, asked, ONES).tolist() == [math.sqrt(18)]


def test_with_three_shared_features_there_is_no_distance() -> None:
    found = np.zeros((8, 1))
    asked = np.array([0.0, 0.0, 0.0, NAN, NAN, NAN, NAN, NAN])
    assert distances(found, asked, ONES).tolist() == [math.inf]


def test_no_snapshot_has_no_distance() -> None:
    assert distances(np.empty((8, 0)), np.zeros(8), ONES).shape == (0,)


NUMBERS = st.floats(-100, 100)


@given(
    arrays(np.float64, (8, 5), elements=NUMBERS | st.just(NAN)),
    arrays(np.float64, 8, elements=NUMBERS),
    arrays(np.float64, 8, elements=st.floats(0.01, 10)),
)
def test_a_distance_is_that_of_a_loop(found: np.ndarray, asked: np.ndarray, scales: np.ndarray) -> None:
    for column, distance in zip(found.T, distances(found, asked, scales), strict=True):
        shared = [at for at in range(8) if not math.isnan(column[at])]
        squares = sum(((column[at] - asked[at]) / scales[at]) ** 2 for at in shared)
        expected = math.sqrt(squares * 8 / len(shared)) if len(shared) >= 4 else math.inf
        assert distance == pytest.approx(expected)


def test_the_largest_contributions_come_first_with_their_share() -> None:
    asked = np.zeros(8)
    found = np.array([1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 4.0, 2.0])
    found[2] = NAN
    # squares 1, 4, 16, 4 of 25
    parts = largest_contributions(asked, found, ONES)
    assert [(part.feature, part.share) for part in parts] == [
        ("rsi", 16 / 25),
        ("trend_strength", 4 / 25),
        ("efficiency_ratio", 4 / 25),
    ]
    assert contributions_text(parts[:1]) == "rsi 0 to 4 (64%)"


def test_nothing_contributes_to_no_distance() -> None:
    assert largest_contributions(ONES, ONES, ONES) == []


def test_a_vector_holds_the_features_in_order_and_gaps_for_what_is_undefined() -> None:
    snapshot = {name: place for place, name in enumerate(DISTANCE_FEATURES)}
    snapshot |= {"undefined_features": ["rsi"], "zscore": None, "atr_pct": "0.1", "return_pct": 9}
    found = feature_vector(snapshot).tolist()
    assert found[1:5] == [1, 2, 3, 4]
    assert found[7] == 7
    assert [math.isnan(found[at]) for at in (0, 5, 6)] == [True] * 3


def test_the_distance_takes_the_eight_features_of_the_rules() -> None:
    assert " ".join(DISTANCE_FEATURES) == (
        "atr_pct std_pct bb_width_pct trend_strength trend_dir zscore rsi efficiency_ratio"
    )
    assert len(DISTANCE_SCALE_FLOORS) == 8
    assert list(DIMENSIONS) == ["trend", "vol", "efficiency"]
