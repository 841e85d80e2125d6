"""The best tunes of a regime and the summary of all; and that an index gives both, at any size."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from kb_pipeline.domain.matching import regime_keys, tier_keys
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.questions.best import best_parameters, regime_summary, summary_text
from kb_pipeline.sql import statement
from kb_pipeline.storage import recommend_events
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.recommend_events import ScoreGroup
from kb_pipeline_tests.acceptance.served import wait_until
from kb_pipeline_tests.attributed import kept, learn, regime_key, won
from kb_pipeline_tests.builders import add_strategy, add_workspace
from kb_pipeline_tests.conftest import Workspace

ASKED = "uptrend high_vol efficient"
KEY = regime_key(ASKED)


def test_the_best_of_a_key_come_by_score_and_ties_by_id(connection: Connection, workspace: Workspace) -> None:
    reversal = Workspace(workspace.id, add_strategy(connection, workspace.id))
    low = won(connection, reversal, ASKED, 1, params={"n": 1})
    tied = sorted(won(connection, workspace, ASKED, 2) for _ in range(3))
    won(connection, workspace, "uptrend high_vol noisy", 9)
    won(connection, workspace, ASKED, None)
    won(connection, add_workspace(connection), ASKED, 9)
    learn(connection, workspace)
    answer = best_parameters(connection, workspace.id, regime_key=KEY)
    assert [it.tune_id for it in answer.tunes] == [*tied, low]
    last = answer.tunes[-1]
    assert (last.strategy, last.timeframe, last.objective, last.score) == ("reversal", "1d", "sharpe", 1)
    assert (last.params, last.regime_key) == ({"n": 1}, KEY)
    assert len(best_parameters(connection, workspace.id, regime_key=KEY, limit=2).tunes) == 2


def test_a_trend_and_a_volatility_take_any_efficiency(connection: Connection, workspace: Workspace) -> None:
    tunes = [
        won(connection, workspace, f"uptrend high_vol {tag}", score)
        for score, tag in enumerate(("_", "noisy", "efficient"))
    ]
    won(connection, workspace, "uptrend low_vol noisy", 9)
    nameless = won(connection, workspace, "_ _ _", 1)
    learn(connection, workspace)
    answer = best_parameters(connection, workspace.id, trend="uptrend", vol="high_vol")
    assert [it.tune_id for it in answer.tunes] == tunes[::-1]
    answer = best_parameters(connection, workspace.id, trend="_", vol="_")
    assert [it.tune_id for it in answer.tunes] == [nameless]


def test_scores_of_other_timeframes_or_objectives_are_not_ranked_against_each_other(
    connection: Connection, workspace: Workspace
) -> None:
    day = [won(connection, workspace, ASKED, score) for score in (3, 2, 1)]
    hour = [won(connection, workspace, ASKED, score, timeframe="1h") for score in (9, 8, 7)]
    calmar = won(connection, workspace, ASKED, 5, objective_type="calmar")
    learn(connection, workspace)
    answer = best_parameters(connection, workspace.id, regime_key=KEY, limit=2)
    assert [it.tune_id for it in answer.tunes] == [calmar, *day[:2], *hour[:2]]
    summaries = regime_summary(connection, workspace.id)
    assert [(it.regime_key, it.timeframe, it.objective) for it in summaries] == [
        (KEY, "1d", "sharpe"),
        (KEY, "1h", "sharpe"),
        (KEY, "1d", "calmar"),
    ]
    assert [(it.tunes, it.mean_score, it.best and it.best.tune_id) for it in summaries] == [
        (3, 2.0, day[0]),
        (3, 8.0, hour[0]),
        (1, 5.0, calmar),
    ]


ARGUMENTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"trend": "uptrend"},
    {"vol": "high_vol"},
    {"regime_key": KEY, "trend": "uptrend"},
    {"regime_key": KEY, "trend": "uptrend", "vol": "high_vol"},
    {"trend": "high_vol", "vol": "uptrend"},
    {"trend": "", "vol": ""},
    {"regime_key": ""},
    {"regime_key": "uptrend"},
)


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_a_question_of_neither_form_is_refused(connection: Connection, arguments: Mapping[str, Any]) -> None:
    with pytest.raises(BadArgumentError):
        best_parameters(connection, UUID(int=1), **arguments)


def test_the_summary_counts_every_key_and_names_its_best(
    connection: Connection, workspace: Workspace
) -> None:
    for score in (1.0, 2.0, 6.0):
        best = won(connection, workspace, ASKED, score)
    won(connection, workspace, ASKED, None)
    won(connection, workspace, "_ _ noisy", None)
    kept(connection, workspace, ASKED, 99)
    won(connection, add_workspace(connection), "flat low_vol noisy", 9)
    learn(connection, workspace)
    first, second = regime_summary(connection, workspace.id)
    assert (first.regime_key, first.tunes, first.scored_tunes, first.mean_score) == (KEY, 4, 3, 3.0)
    assert (first.trend, first.vol, first.efficiency) == ("uptrend", "high_vol", "efficient")
    assert first.best is not None
    assert (first.best.tune_id, first.best.score) == (best, 6)
    assert (second.tunes, second.scored_tunes, second.mean_score, second.best) == (1, 0, None, None)
    assert "\x1b" not in summary_text([first, second])


def test_a_tune_without_an_objective_type_is_counted_by_its_objective_metric(
    connection: Connection, workspace: Workspace
) -> None:
    for score in (1.0, 2.0):
        won(connection, workspace, ASKED, score)
    for metric, score in (("sharpe", 6.0), ("calmar", 8.0), ("calmar", None)):
        tune = won(connection, workspace, ASKED, score)
        connection.execute(
            "UPDATE backtest_tunes SET objective_type = NULL, objective_metric = %s WHERE id = %s",
            [metric, tune],
        )
    learn(connection, workspace)
    assert [
        (it.objective, it.tunes, it.scored_tunes, it.mean_score)
        for it in regime_summary(connection, workspace.id)
    ] == [("sharpe", 3, 3, 3.0), ("calmar", 2, 1, 8.0)]


def test_an_objective_of_any_length_is_ranked_by_its_beginning(
    connection: Connection, workspace: Workspace
) -> None:
    long = "".join(chr(33 + number * 7919 % 90) for number in range(100_000))
    tune = won(connection, workspace, ASKED, 1.0)
    connection.execute(
        "UPDATE backtest_tunes SET objective_type = NULL, objective_metric = %s WHERE id = %s", [long, tune]
    )
    learn(connection, workspace)
    (only,) = regime_summary(connection, workspace.id)
    assert (only.objective, only.best and only.best.tune_id) == (long[:63], tune)


def test_untrusted_names_do_not_steer_a_terminal(connection: Connection, workspace: Workspace) -> None:
    connection.execute("UPDATE kb_entities SET name = E'\\x1b[31mred\\nX'")
    won(connection, workspace, ASKED, 1, params={"\x1b[2J": "\n"})
    learn(connection, workspace)
    texts = [
        best_parameters(connection, workspace.id, regime_key=KEY).to_text(),
        summary_text(regime_summary(connection, workspace.id)),
    ]
    for text in texts:
        assert "\x1b" not in text
        assert len(text.splitlines()) == 2


# --- Plans ---------------------------------------------------------------------------------------

TUNES = 20_000


@pytest.fixture
def many(connection: Connection, workspace: Workspace) -> Workspace:
    """Return the workspace with 20,000 attributed tunes and 5,000 runs, spread over the 45 keys, the tunes
    over three score groups.
    """
    connection.execute(
        """INSERT INTO backtest_tunes (workspace_id, strategy_entity_id, search_type, n_trials, param_space,
                  status, completed_at, attributed_completed_at, regime_key, best_oos_score, best_oos_params,
                  timeframe, objective_type)
           SELECT %s, %s, 'grid', 10, '{}', 'completed', now(), now(), (%s::text[])[1 + number %% 45],
                  number * 7919 %% 30000 / 1000.0, jsonb_build_object('fast', number), '1d',
                  CASE WHEN number > 100 THEN 'sharpe' WHEN number > 50 THEN 'calmar' ELSE 'sortino' END
             FROM generate_series(1, %s) AS number""",
        [workspace.id, workspace.strategy_id, regime_keys()[:45], TUNES],
    )
    connection.execute(
        """INSERT INTO kb_trials (workspace_id, source_type, source_id, strategy_entity_id,
                  params_fingerprint, timeframe, objective, sharpe_oos, regime_key, content_hash,
                  source_version)
           SELECT %s, 'test_variant', gen_random_uuid(), %s, '', '1d', 'sharpe', number / 1000.0,
                  (%s::text[])[1 + number %% 45], '', ''
             FROM generate_series(1, 5000) AS number""",
        [workspace.id, workspace.strategy_id, regime_keys()[:45]],
    )
    wait_until(lambda: _is_visible_after_vacuum(connection), "every tune to be visible to all", 20)
    return workspace


def _is_visible_after_vacuum(connection: Connection) -> bool:
    """Vacuum, and tell whether no page was left out, which one is that another process has a hand on."""
    connection.execute("VACUUM (FREEZE, ANALYZE) backtest_tunes, kb_trials")
    left_out = "SELECT relpages - relallvisible FROM pg_class WHERE oid = 'backtest_tunes'::regclass"
    return connection.execute(left_out).fetchone() == (0,)


def _plan(connection: Connection, name: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run a statement under EXPLAIN ANALYZE and return the nodes of its plan, outermost first."""
    explain = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) "
    with connection.working_in(parameters["workspace_id"]):  # as kb_app, under row-level security
        row = connection.execute(explain + statement(name), parameters).fetchone()  # type: ignore[operator]
    assert row is not None

    def nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
        return [node, *(inner for child in node.get("Plans", ()) for inner in nodes(child))]

    return nodes(row[0][0]["Plan"])


def _rows_read(plan: list[dict[str, Any]], table: str = "backtest_tunes") -> int:
    scans = [node for node in plan if node.get("Relation Name") == table]
    return round(
        sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            for node in scans
        )
    )


def _reads(
    connection: Connection, plan: list[dict[str, Any]], rows: int, table: str = "backtest_tunes"
) -> bool:
    """Tell whether a plan read so many rows; before Postgres 18 EXPLAIN rounds those of a loop."""
    loops = sum(node["Actual Loops"] for node in plan if node.get("Relation Name") == table)
    slack = 0 if connection.info.server_version >= 180_000 else loops / 2
    return abs(_rows_read(plan, table) - rows) <= slack


def _indexes(plan: list[dict[str, Any]]) -> set[str]:
    return {node["Index Name"] for node in plan if "Index Name" in node}


def _kinds(plan: list[dict[str, Any]]) -> str:
    return " ".join(node["Node Type"] for node in plan)


def test_the_best_ten_of_a_key_cost_ten_rows_of_an_index_and_no_sort(
    connection: Connection, many: Workspace
) -> None:
    # of the six keys of a trend and a volatility the three of one layout have rows
    kinds = {"timeframes": ["1d", "1h"], "objectives": ["sharpe", "sharpe"]}
    for asked, rows in (([KEY], 10), (regime_keys(trend="uptrend", vol="high_vol"), 30)):
        parameters = {"workspace_id": many.id, "regime_keys": asked, **kinds, "rows": 10}
        plan = _plan(connection, "questions.best_of_keys", parameters)
        assert _indexes(plan) - {"kb_entities_pkey"} == {"idx_tunes_ranking_in_regime"}
        assert "Sort" not in _kinds(plan)
        assert _reads(connection, plan, rows)


def test_the_summary_reads_an_index_and_no_tune(connection: Connection, many: Workspace) -> None:
    with connection.transaction():
        for name in ("session.allow_long_read", "questions.prefer_index"):
            connection.execute(statement(name))
        plan = _plan(connection, "questions.regime_counts", {"workspace_id": many.id})
    assert "Sort" not in _kinds(plan)
    scan, *older = [node for node in plan if node.get("Relation Name") == "backtest_tunes"]
    assert scan["Index Name"] == "idx_tunes_ranking_in_regime"
    assert _indexes(plan) <= {"idx_tunes_ranking_in_regime", "idx_tunes_workspace_regime"}
    assert (scan["Node Type"], scan["Heap Fetches"]) == ("Index Only Scan", 0)
    assert (_rows_read([scan]), _rows_read(older)) == (TUNES, 0)


@pytest.mark.parametrize(
    ("tiers", "needed", "most"),
    [
        (["exact"], 1, 20),
        (["partial_trend_vol"], 1, 40),
        (list(tier_keys(KEY)), 20, 20),
        (list(tier_keys(KEY)), 21, 60),
    ],
)
def test_a_walk_probes_its_indexes_once_a_key_and_ends_with_the_tier_that_has_enough(
    connection: Connection, many: Workspace, tiers: list[str], needed: int, most: int
) -> None:
    asked = {
        "workspace_id": many.id,
        **ScoreGroup(str(many.strategy_id), "1d", "sharpe")._asdict(),
        "name": None,
        "keys": [",".join(tier_keys(KEY)[tier]) for tier in tiers],
        "most": [20] * len(tiers),
        "rows": [20] * len(tiers),
        "needed": needed,
        "itself": [],
    }
    plan = _plan(connection, "recommend_events.walk_tiers", asked)
    assert {"idx_tunes_ranking_in_strategy", "idx_kb_trials_ranking_in_strategy"} <= _indexes(plan)
    assert not [it for it in plan if it["Node Type"] == "Seq Scan" and it["Relation Name"] != "kb_entities"]
    for table in ("backtest_tunes", "kb_trials"):
        assert _reads(connection, plan, most, table)


def test_the_best_of_any_regime_step_from_key_to_key_and_probe_each_once(
    connection: Connection, many: Workspace
) -> None:
    group = ScoreGroup(str(many.strategy_id), "1d", "sharpe")
    asked = {"workspace_id": many.id, "rows": 20, "known_ids": [], **group._asdict()}
    plan = _plan(connection, "recommend_events.best_of_any", asked)
    assert _indexes(plan) == {"idx_tunes_ranking_in_strategy", "idx_kb_trials_ranking_in_strategy"}
    for table in ("backtest_tunes", "kb_trials"):
        scans = [it for it in plan if it.get("Relation Name") == table]
        for is_probe, rows in ((False, 45), (True, 45 * 20)):
            some = [it for it in scans if ("Infinity" in it["Index Cond"]) == is_probe]
            assert _reads(connection, some, rows, table)


def test_finding_the_score_groups_steps_from_one_to_the_next(connection: Connection, many: Workspace) -> None:
    bounds = {"first_strategy_id": many.strategy_id, "last_strategy_id": many.strategy_id}
    plan = _plan(connection, "recommend_events.score_groups", {"workspace_id": many.id, **bounds})
    assert _indexes(plan) == {"idx_tunes_ranking_in_strategy", "idx_kb_trials_ranking_in_strategy"}
    assert _reads(connection, plan, 3)
    assert _reads(connection, plan, 1, "kb_trials")
    groups = recommend_events.score_groups(connection, many.id, str(many.strategy_id))
    assert [group.objective for group in groups] == ["calmar", "sharpe", "sortino"]
    assert recommend_events.count_candidates(connection, many.id, groups, 10**6) == [50, 24_900, 50]
    assert recommend_events.count_candidates(connection, many.id, groups, 100) == [50, 100, 50]


def test_answers_are_json(connection: Connection, workspace: Workspace) -> None:
    won(connection, workspace, ASKED, 1)
    learn(connection, workspace)
    answer = best_parameters(connection, workspace.id, regime_key=KEY)
    assert json.loads(json.dumps(answer.to_dict()))["tunes"][0]["score"] == 1
