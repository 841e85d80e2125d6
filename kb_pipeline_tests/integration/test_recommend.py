"""Recommendations on a real Postgres: what is said of what was found, and what is logged."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from kb_pipeline.domain.regime import RegimeSnapshot
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.questions.recommend import RecommendRequest, recommend
from kb_pipeline.questions.similar import similar
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.attributed import (
    RECOMMENDED_FOR,
    ids_of,
    learn,
    recommended,
    regime_key,
    snapshot,
    won,
)
from kb_pipeline_tests.builders import add_strategy, add_workspace, write_daily_bars
from kb_pipeline_tests.conftest import Workspace

ASKED = RECOMMENDED_FOR
KEY = regime_key(ASKED)


# --- Whose scores --------------------------------------------------------------------------------


def test_scores_of_one_timeframe_and_objective_are_ranked_and_the_others_named(
    connection: Connection, workspace: Workspace
) -> None:
    days = [won(connection, workspace, ASKED, score) for score in (1, 2)]
    won(connection, workspace, ASKED, 9, timeframe="1h")
    won(connection, workspace, ASKED, 9, objective_type="calmar")
    unknown = won(connection, workspace, ASKED, 9, timeframe=None)
    learn(connection, workspace)
    answer = recommended(connection, workspace, min_samples=2)
    assert (ids_of(answer), answer.timeframe, answer.objective) == (days[::-1], "1d", "sharpe")
    (warning,) = answer.warnings
    assert "these are of 1d sharpe" in warning
    assert "1h sharpe (1), unknown sharpe (1), 1d calmar (1)" in warning
    assert ids_of(recommended(connection, workspace, timeframe="unknown")) == [unknown]
    (calmar,) = recommended(connection, workspace, objective="calmar").candidates
    assert calmar.score == 9


def test_a_run_fixes_the_timeframe_and_neither_it_nor_its_tune_answers(
    connection: Connection, workspace: Workspace
) -> None:
    own = won(connection, workspace, ASKED, 9, timeframe="1h")
    other = won(connection, workspace, ASKED, 1, timeframe="1h")
    won(connection, workspace, ASKED, 5)
    learn(connection, workspace)
    row = connection.execute("SELECT best_oos_run_id FROM backtest_tunes WHERE id = %s", [own]).fetchone()
    assert row is not None
    answer = recommended(connection, workspace, run_id=row[0], min_samples=1)
    assert (ids_of(answer), answer.timeframe) == ([other], "1h")
    assert f"Left out, because the question is about it: {own}." in answer.warnings


def test_what_a_question_is_about_is_not_counted_as_enough(
    connection: Connection, workspace: Workspace
) -> None:
    own = won(connection, workspace, ASKED, 9)
    other = won(connection, workspace, "uptrend high_vol noisy", 1)
    learn(connection, workspace)
    row = connection.execute("SELECT best_oos_run_id FROM backtest_tunes WHERE id = %s", [own]).fetchone()
    assert row is not None
    answer = recommended(connection, workspace, run_id=row[0], min_samples=1)
    assert (ids_of(answer), answer.tier_used) == ([other], "partial_trend_vol")


def test_other_workspaces_and_strategies_give_nothing(connection: Connection, workspace: Workspace) -> None:
    other = add_workspace(connection)
    won(connection, other, ASKED, 9)
    learn(connection, other)
    reversal = Workspace(workspace.id, add_strategy(connection, workspace.id))
    won(connection, reversal, ASKED, 9)
    own = won(connection, workspace, ASKED, 1)
    learn(connection, workspace)
    for options in ({}, {"snapshot": RegimeSnapshot.from_dict(snapshot(ASKED))}):
        assert ids_of(recommended(connection, workspace, min_samples=99, **options)) == [own]


# --- What is said --------------------------------------------------------------------------------


def test_too_little_is_said_and_single_relaxations_are_suggested(
    connection: Connection, workspace: Workspace
) -> None:
    won(connection, workspace, "uptrend high_vol noisy", 1)
    won(connection, workspace, "flat low_vol noisy", 1)
    for _ in range(3):
        won(connection, workspace, "flat low_vol _", 1, timeframe="1h")
    won(connection, workspace, ASKED, 1, objective_type="calmar")
    won(connection, workspace, ASKED, 1, timeframe="1h", objective_type="calmar")  # two steps away
    reversal = Workspace(workspace.id, add_strategy(connection, workspace.id))
    for _ in range(2):
        won(connection, reversal, ASKED, 1)
    learn(connection, workspace)
    answer = recommended(connection, workspace, timeframe="1d", objective="sharpe")
    assert answer.warnings == ["2 candidates in all tiers, fewer than the 5 asked for."]
    assert [str(it) for it in answer.suggestions] == [
        "--min-samples 2 would give 2",
        "any efficiency, with the rest of the regime the same, would give 1",
        "--timeframe 1h would give 3",
        "--strategy reversal would give 2",
        "--objective calmar would give 1",
    ]


def test_a_thin_regime_is_said_where_other_tiers_made_up_for_it(
    connection: Connection, workspace: Workspace
) -> None:
    won(connection, workspace, ASKED, 1)
    for _ in range(4):
        won(connection, workspace, "uptrend high_vol _", 1)
    learn(connection, workspace)
    answer = recommended(connection, workspace)
    assert answer.warnings == [
        "The regime itself has 1 candidate, fewer than the 5 asked for; the others are from the tiers "
        "down to partial_trend_vol."
    ]
    assert answer.suggestions == []


def test_nothing_known_is_an_answer_too(connection: Connection, workspace: Workspace) -> None:
    answer = recommended(connection, workspace, snapshot=RegimeSnapshot.from_dict(snapshot(ASKED)))
    assert (answer.candidates, answer.tier_used, answer.confidence) == ([], "none", None)
    assert "fewer than the 5 asked for. No tune of this workspace has a regime" in " ".join(answer.warnings)
    assert "found: exact 0" in answer.to_text()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "no such"}, r"There is no strategy 'no such'. The workspace has: trend_following \("),
    ({"regime_key": "nonsense"}, "found the regime key 'nonsense'"),
    ({"regime_key": None}, "exactly one"),
    ({"run_id": uuid4(), "regime_key": KEY}, "exactly one"),
    ({"run_id": UUID(int=7)}, "no run 00000000-0000-0000-0000-000000000007"),
    ({"workspace_id": UUID(int=8)}, "no workspace 00000000-0000-0000-0000-000000000008"),
    ({"k": 0}, "k is 0"),
]


def test_what_cannot_be_asked_is_refused(connection: Connection, workspace: Workspace) -> None:
    for options, message in REFUSED:
        with pytest.raises(BadArgumentError, match=message):
            recommended(connection, workspace, **options)
    assert connection.execute("SELECT count(*) FROM recommend_events").fetchone() == (0,)


def test_a_name_that_two_strategies_have_is_refused_with_both(
    connection: Connection, workspace: Workspace
) -> None:
    connection.execute("INSERT INTO kb_entities (type, name) VALUES ('strategy', 'Trend_Following')")
    with pytest.raises(
        BadArgumentError, match=r"2 strategies are named 'trend_following'. Give an id: "
    ) as error:
        recommended(connection, workspace)
    with pytest.raises(BadArgumentError, match="2 strategies are named"):
        recommended(connection, workspace, timeframe="1d", objective="sharpe")
    assert str(workspace.strategy_id) in str(error.value)
    assert (
        recommended(connection, workspace, strategy=str(workspace.strategy_id)).strategy == "trend_following"
    )


# --- The log -------------------------------------------------------------------------------------


def test_every_call_is_logged_with_what_its_tiers_found(connection: Connection, workspace: Workspace) -> None:
    recommended(connection, workspace)
    won(connection, workspace, ASKED, 1.5)
    won(connection, workspace, "uptrend high_vol _", 1)
    learn(connection, workspace)
    recommended(connection, workspace, min_samples=2, k=1)
    rows = connection.execute(
        "SELECT strategy_entity_id, query_regime_key, query_trend_tag, query_vol_tag, timeframe, objective,"
        " tier_used, tiers_attempted, exact_count, partial_trend_vol_count, global_count, k, min_samples,"
        " candidate_count, top_candidate_score, confidence, duration_ms > 0"
        " FROM recommend_events ORDER BY created_at"
    ).fetchall()
    asked = (workspace.strategy_id, KEY, "uptrend", "high_vol")
    every = ["exact", "partial_trend_vol", "partial_trend", "partial_vol", "distance", "global_best"]
    assert rows == [
        (*asked, "unknown", "sharpe", "none", every, 0, 0, 0, 20, 5, 0, None, None, True),
        (*asked, "1d", "sharpe", "partial_trend_vol", every[:2], 1, 1, 0, 1, 2, 1, 1.5, 0.85, True),
    ]


def test_a_call_that_may_not_write_is_answered_and_says_so(
    connection: Connection, workspace: Workspace
) -> None:
    tune = won(connection, workspace, ASKED, 1)
    learn(connection, workspace)
    connection.execute("SET default_transaction_read_only = on")
    asked = RegimeSnapshot.from_dict(snapshot(ASKED))
    answer = recommended(connection, workspace, snapshot=asked, min_samples=1)
    assert ids_of(answer) == [tune]
    assert answer.warnings == [
        "Changed lately and not in the distances yet: 1 tunes or runs.",
        "This call could not be logged: cannot execute INSERT in a read-only transaction",
    ]
    answer = recommended(connection, workspace, regime_key=KEY, min_samples=1)
    assert (ids_of(answer), len(answer.warnings)) == ([tune], 1)
    with connection.transaction():
        assert ids_of(recommended(connection, workspace, min_samples=1)) == [tune]
        assert connection.execute("SELECT 1").fetchone() == (1,), "the caller's transaction is not spoilt"


def test_what_could_not_be_computed_of_the_regime_asked_about_is_said(
    connection: Connection, workspace: Workspace, tmp_path: Path
) -> None:
    won(connection, workspace, "_ high_vol efficient", 1)
    learn(connection, workspace)
    bars = write_daily_bars(tmp_path / "BTC_1d.csv", bars=7)
    request = RecommendRequest(workspace_id=workspace.id, strategy="trend_following", ohlcv_file=bars)
    warning = (
        "Could not be computed of the last 7 bars of BTC_1d.csv: std_pct, bb_width_pct, trend_strength, "
        "trend_dir, zscore. A tag that needs one of them is missing from the regime asked about."
    )
    assert warning in recommend(connection, request).warnings
    answer = similar(connection, workspace.id, ohlcv_file=bars)
    assert answer.warnings == [warning]
    assert answer.neighbours == []
    assert answer.to_text().splitlines()[1:] == [
        "Nothing to compare with: no attributed tune or ingested run that shares four features with it.",
        f"Warning: {warning}",
    ]


def test_the_key_asked_about_is_named_once(connection: Connection, workspace: Workspace) -> None:
    text = recommended(connection, workspace).to_text()
    assert text.splitlines()[0] == f"trend_following in {KEY} (the key given), unknown bars, objective sharpe"
    assert text.count(KEY) == 1


@pytest.mark.parametrize("asked", [{"timeframe": "4h"}, {"objective": "sharpe"}])
def test_what_was_left_open_does_not_hide_what_a_single_relaxation_gives(
    connection: Connection, workspace: Workspace, asked: dict[str, str]
) -> None:
    won(connection, workspace, ASKED, 1, objective_type="calmar")
    learn(connection, workspace)
    ((option, count),) = recommended(connection, workspace, **asked).suggestions
    assert (option, count) == ("--timeframe 1d" if "timeframe" in asked else "--objective calmar", 1)


def test_parameters_beyond_a_float_are_still_json(connection: Connection, workspace: Workspace) -> None:
    won(connection, workspace, ASKED, 1, params={"fast": 5})
    learn(connection, workspace)
    huge = "9" * 400 + ".5"
    connection.execute(f"""UPDATE backtest_tunes SET best_oos_params = '{{"huge": {huge}, "odd": 1.5}}'""")
    answer = recommended(connection, workspace)
    json.dumps(answer.to_dict(), allow_nan=False)
    assert answer.candidates[0].params == {"huge": huge, "odd": 1.5}, "as they are stored"


def test_a_tier_counts_what_it_found_before_the_cut_to_k(
    connection: Connection, workspace: Workspace
) -> None:
    tunes = [won(connection, workspace, ASKED, score) for score in range(9)]
    learn(connection, workspace)
    answer = recommended(connection, workspace, k=2)
    assert ids_of(answer) == [tunes[8], tunes[7]]
    assert (answer.counts, answer.candidates[0].n) == ({"exact": 9}, 9)
