"""Recommendations on a real Postgres: which tiers are walked, and what each gives."""

from dataclasses import replace

import pytest

from kb_pipeline.domain.regime import RegimeSnapshot
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.attributed import (
    RECOMMENDED_FOR,
    ids_of,
    kept,
    learn,
    recommended,
    regime_key,
    snapshot,
    won,
)
from kb_pipeline_tests.conftest import Workspace

ASKED = RECOMMENDED_FOR
KEY = regime_key(ASKED)


def test_tiers_are_walked_until_there_are_enough_and_given_in_their_order(
    connection: Connection, workspace: Workspace
) -> None:
    exact = won(connection, workspace, ASKED, 0.1)
    trend_vol = won(connection, workspace, "uptrend high_vol noisy", 0.2)
    trend = won(connection, workspace, "uptrend low_vol _", 0.3)
    vol = won(connection, workspace, "flat high_vol noisy", 0.4)
    anything = won(connection, workspace, "downtrend low_vol noisy", 0.5)
    run = kept(connection, workspace, None, 0.6)
    learn(connection, workspace)
    tiers = [
        (1, [exact], "exact", 1.0),
        (2, [exact, trend_vol], "partial_trend_vol", 0.85),
        (3, [exact, trend_vol, trend], "partial_trend", 0.7),
        (4, [exact, trend_vol, trend, vol], "partial_vol", 0.7),
        # the distance tier needs a snapshot; a run without a regime serves the last tier alone
        (5, [exact, trend_vol, trend, vol, run, anything], "global_best", 0.3),
    ]
    for min_samples, ids, tier, confidence in tiers:
        answer = recommended(connection, workspace, min_samples=min_samples)
        assert (ids_of(answer), answer.tier_used, answer.confidence) == (ids, tier, confidence)
        assert answer.is_sufficient
        # Where it is given which scores to rank, strategy and tiers are asked for together.
        for strategy in ("trend_following", "Trend_Following", str(workspace.strategy_id).upper()):
            named = {"strategy": strategy, "timeframe": "1d", "objective": "sharpe"}
            again = recommended(connection, workspace, min_samples=min_samples, **named)
            assert again.to_dict() == answer.to_dict()


def test_what_the_tiers_before_gave_takes_no_place_in_the_last(
    connection: Connection, workspace: Workspace
) -> None:
    for score in range(12):
        won(connection, workspace, "uptrend low_vol _", 100 + score)
    for score in range(25):
        won(connection, workspace, "flat low_vol _", score)
    learn(connection, workspace)
    answer = recommended(connection, workspace, min_samples=11)
    assert {tier: count for tier, count in answer.counts.items() if count} == {
        "partial_trend": 10,
        "global_best": 20,
    }


def test_the_last_tier_knows_the_keys_of_other_rulesets(connection: Connection, workspace: Workspace) -> None:
    own, foreign = (won(connection, workspace, ASKED, score) for score in (0.1, 0.9))
    single = kept(connection, workspace, ASKED, 0.5)
    learn(connection, workspace)
    other_key = KEY.replace("default_v1", "house_v7")
    connection.execute("UPDATE backtest_tunes SET regime_key = %s WHERE id = %s", [other_key, foreign])
    connection.execute("UPDATE kb_trials SET regime_key = %s WHERE source_id = %s", [other_key, single])
    answer = recommended(connection, workspace)
    assert [(it.id, it.tier, it.matched) for it in answer.candidates[1:]] == [
        (foreign, "global_best", []),
        (single, "global_best", []),
    ]
    assert answer.candidates[0].id == own


def test_with_a_snapshot_the_nearest_come_before_the_best(
    connection: Connection, workspace: Workspace
) -> None:
    near = won(connection, workspace, "flat low_vol noisy", 0.1, features={"rsi": 52.0})
    for score in range(21):
        won(connection, workspace, "flat low_vol noisy", 1 + score, features={"rsi": 95.0})
    learn(connection, workspace)
    asked = RegimeSnapshot.from_dict(snapshot(ASKED))
    answer = recommended(connection, workspace, snapshot=asked)
    assert answer.counts == {
        **dict.fromkeys(("exact", "partial_trend_vol", "partial_trend", "partial_vol"), 0),
        "distance": 20,
    }
    by_id = {it.id: it for it in answer.candidates}
    assert near in by_id, "it is the nearest, though the worst by score"
    # all but one are at 95, so the scale of rsi is its floor, 2.5
    assert by_id[near].distance == pytest.approx(0.8)
    assert [it.feature for it in by_id[near].contributions] == ["rsi"]
    assert [it.score for it in answer.candidates] == sorted((it.score for it in by_id.values()), reverse=True)


def test_the_nearest_are_counted_without_those_of_the_tiers_before(
    connection: Connection, workspace: Workspace
) -> None:
    for score in range(3):
        won(connection, workspace, ASKED, score)
    for score in range(22):
        won(connection, workspace, "flat low_vol noisy", score, features={"rsi": 60.0})
    learn(connection, workspace)
    asked = RegimeSnapshot.from_dict(snapshot(ASKED))
    assert recommended(connection, workspace, snapshot=asked).counts == {
        "exact": 3,
        "partial_trend_vol": 0,
        "partial_trend": 0,
        "partial_vol": 0,
        "distance": 20,
    }


def test_a_candidate_stands_in_the_first_tier_that_has_it_alone(
    connection: Connection, workspace: Workspace
) -> None:
    ids = [won(connection, workspace, tags, 1) for tags in (ASKED, "uptrend high_vol _", "flat high_vol _")]
    learn(connection, workspace)
    asked = RegimeSnapshot.from_dict(snapshot(ASKED))
    answer = recommended(connection, workspace, snapshot=asked, min_samples=99)
    assert ids_of(answer) == ids
    assert [it.tier for it in answer.candidates] == ["exact", "partial_trend_vol", "partial_vol"]
    assert (answer.tier_used, answer.is_sufficient) == ("partial_vol", False)


def test_scores_rank_inside_a_tier_and_ties_go_by_id(connection: Connection, workspace: Workspace) -> None:
    low, high = won(connection, workspace, ASKED, 1), won(connection, workspace, ASKED, 3)
    tied = [won(connection, workspace, ASKED, 2) for _ in range(3)]
    tied.append(kept(connection, workspace, ASKED, 2))
    learn(connection, workspace)
    ranked = [high, *sorted(tied), low]
    assert ids_of(recommended(connection, workspace)) == ranked
    for k in range(1, 6):
        assert ids_of(recommended(connection, workspace, k=k, min_samples=1)) == ranked[:k]


def test_a_tier_is_capped_and_the_answer_cut_to_k(connection: Connection, workspace: Workspace) -> None:
    for score in range(12):
        won(connection, workspace, "uptrend low_vol _", score)
    learn(connection, workspace)
    answer = recommended(connection, workspace, min_samples=12)
    assert answer.counts["partial_trend"] == 10
    assert answer.counts["global_best"] == 2
    cut = recommended(connection, workspace, min_samples=12, k=3)
    assert [it.score for it in cut.candidates] == [11, 10, 9]
    assert cut.counts == {**answer.counts, "global_best": 2}


def test_a_tune_without_a_score_recommends_nothing(connection: Connection, workspace: Workspace) -> None:
    won(connection, workspace, ASKED, None)
    nan = won(connection, workspace, ASKED, 1)
    good = won(connection, workspace, ASKED, -1)
    learn(connection, workspace)
    connection.execute("UPDATE backtest_tunes SET best_oos_score = 'NaN' WHERE id = %s", [nan])
    assert ids_of(recommended(connection, workspace)) == [good]
    asked = RegimeSnapshot.from_dict(snapshot("flat low_vol noisy"))
    assert ids_of(recommended(connection, workspace, snapshot=asked)) == [good]


def test_every_candidate_says_why_in_one_sentence(connection: Connection, workspace: Workspace) -> None:
    tune = won(connection, workspace, "uptrend high_vol _", 1.5, features={"rsi": 55.0, "zscore": 0.25})
    learn(connection, workspace)
    asked = RegimeSnapshot.from_dict(snapshot(ASKED))
    (candidate,) = recommended(connection, workspace, snapshot=asked).candidates
    # scales are floors: rsi 5 / 2.5 = 2, zscore 0.25 / 0.25 = 1, together sqrt(5)
    assert candidate.explanation == (
        f"Tune {tune} scored 1.500 out of sample in the same trend and volatility (trend, vol agree), "
        "one of 1 found there, 2.24 away, mostly by rsi 50 to 55 (80%), zscore 0 to 0.25 (20%)."
    )
    assert candidate.to_dict()["explanation"] == candidate.explanation
    assert (candidate.n, candidate.params, candidate.matched) == (1, {"fast": 5}, ["trend", "vol"])
    assert "(trend agrees)," in replace(candidate, matched=["trend"]).explanation
