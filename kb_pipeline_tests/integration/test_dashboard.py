"""The dashboard over a real Postgres: what is read, of which workspace and moment, and the command."""

from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from kb_pipeline.backfills.uplift import UpliftRequest, measure_uplift
from kb_pipeline.dashboard.frame import Frame, Scoring, read_frame
from kb_pipeline.dashboard.page import dashboard_page
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.questions.recommend import RecommendRequest, recommend
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline.storage.regime_uplift import one_moment
from kb_pipeline_tests.acceptance.commands import ANY_ID, run_here
from kb_pipeline_tests.attributed import kept, learn, regime_key, snapshot, won
from kb_pipeline_tests.builders import add_strategy, add_trial, add_tune, add_workspace
from kb_pipeline_tests.conftest import Workspace

TREND = "uptrend high_vol _"
FLAT = "flat low_vol noisy"
WINDOW = {"ts_start": "2020-01-02T00:00:00Z", "ts_end": "2020-06-30T00:00:00Z"}


def _tune(
    connection: Connection, workspace: Workspace, *scores: tuple[float | None, float], symbol: str = "AAPL"
) -> UUID:
    """Insert a tune whose trials scored (in sample, out of sample)."""
    tune_id = add_tune(connection, workspace)
    for in_sample, sharpe in scores:
        add_trial(
            connection,
            workspace,
            tune_id,
            sharpe=sharpe,
            regime=snapshot(TREND, **WINDOW),
            run={"dataset_meta": {"symbol": symbol, "timeframe": "1d"}},
            metrics_is={"sharpe": in_sample},
        )
    return tune_id


def _page(connection: Connection, workspace: Workspace) -> Frame:
    learn(connection, workspace)
    return read_frame(connection, workspace.id)


def test_tunes_are_grouped_by_strategy_bars_and_regime_with_the_best_of_each(
    connection: Connection, workspace: Workspace
) -> None:
    won(connection, workspace, TREND, 1.0)
    best = won(connection, workspace, TREND, 3.0, params={"fast": 9})
    won(connection, workspace, TREND, None)
    won(connection, workspace, TREND, 5.0, timeframe="1h")
    won(connection, workspace, FLAT, -1.0, timeframe=None)
    frame = _page(connection, workspace)
    assert (frame.state.completed_tunes, frame.state.attributed_tunes) == (5, 5)
    groups = {(it.timeframe, it.regime_key): it for it in frame.groups}
    daily = groups["1d", regime_key(TREND)]
    assert (daily.tunes, daily.scored, daily.mean_score) == (3, 2, 2.0)
    assert (daily.best_score, daily.best_params, daily.best_tune_id) == (3.0, '{"fast": 9}', best)
    assert groups["1h", regime_key(TREND)].best_score == 5.0
    assert groups["unknown", regime_key(FLAT)].mean_score == -1.0
    assert frame.grids[Scoring("1d", "sharpe")]["uptrend", "high_vol"] == (3, 2, 2.0)


@pytest.mark.parametrize("beyond", ["NaN", "Infinity", "-Infinity"])
def test_a_score_that_is_no_number_is_no_score(
    connection: Connection, workspace: Workspace, beyond: str
) -> None:
    tune_id = won(connection, workspace, TREND, 1.0)
    learn(connection, workspace)
    connection.execute("UPDATE backtest_tunes SET best_oos_score = %s WHERE id = %s", [beyond, tune_id])
    (group,) = read_frame(connection, workspace.id).groups
    assert (group.tunes, group.scored, group.mean_score, group.best_score) == (1, 0, None, None)


def test_nothing_of_another_workspace_is_read(connection: Connection, workspace: Workspace) -> None:
    other = add_workspace(connection)
    for number in range(6):
        _tune(connection, other, (2.0, 1.0), (1.0, 0.5), symbol=f"S{number}")
    learn(connection, other)
    measure_uplift(connection, UpliftRequest(workspace_id=other.id), dry_run=False)
    _ask(connection, other, TREND)
    _drift(connection, other)
    won(connection, workspace, FLAT, 1.0)
    learn(connection, workspace)
    theirs, ours = read_frame(connection, other.id), read_frame(connection, workspace.id)
    assert (theirs.uplift is not None, len(theirs.drift), len(theirs.sample_pairs)) == (True, 1, 6)
    assert sum(week.calls["exact"] for week in theirs.weeks) == 1
    assert (ours.state.completed_tunes, ours.state.attributed_tunes) == (1, 1)
    assert [it.regime_key for it in ours.groups] == [regime_key(FLAT)]
    assert [it.regime_key for it in ours.gaps] == [regime_key(FLAT)]
    assert ours.uplift is None
    assert (ours.weeks, ours.drift, ours.sample_gaps, ours.sample_pairs) == ((), (), (), ())


def _drift(connection: Connection, workspace: Workspace) -> None:
    connection.execute(
        "INSERT INTO kb_drift_events (workspace_id, strategy_entity_id, symbol, timeframe, first_bar, reason,"
        " regime_key, training_keys, moved, training_snapshots, seed, sentence)"
        " VALUES (%s, %s, 'AAPL', '1d', '2012-09-03', 'key_changed', %s, '{}', '[]', 20, 1, 'left')",
        [workspace.id, workspace.strategy_id, regime_key(FLAT)],
    )


def _ask(connection: Connection, workspace: Workspace, tags: str) -> None:
    strategy = str(workspace.strategy_id)
    request = RecommendRequest(workspace_id=workspace.id, strategy=strategy, regime_key=regime_key(tags))
    recommend(connection, request)


def test_a_gap_names_a_window_the_strategy_was_not_tuned_on_and_how_often_it_was_asked_for(
    connection: Connection, workspace: Workspace
) -> None:
    _tune(connection, workspace, (2.0, 1.0), symbol="AAPL")
    reversal = Workspace(workspace.id, add_strategy(connection, workspace.id))
    _tune(connection, reversal, (2.0, 1.0), symbol="IBM")
    learn(connection, workspace)
    _ask(connection, reversal, TREND)
    _ask(connection, reversal, TREND)
    elsewhere = add_workspace(connection)
    connection.execute(
        "INSERT INTO recommend_events (workspace_id, strategy_entity_id, query_regime_key, tier_used)"
        " VALUES (%s, %s, %s, 'none')",
        [elsewhere.id, workspace.strategy_id, regime_key(TREND)],
    )
    first, second = read_frame(connection, workspace.id).gaps
    assert (first.strategy, first.scored, first.missing, first.asked) == ("reversal", 1, 4, 2)
    assert [it[2:5] for it in first.untried] == [("AAPL", "2020-01-02", "2020-06-30")]
    assert (second.strategy, second.asked) == ("trend_following", 0)
    assert [it.symbol for it in second.untried] == ["IBM"]


def test_a_single_run_shows_where_a_regime_was_met(connection: Connection, workspace: Workspace) -> None:
    won(connection, workspace, TREND, 1.0)
    kept(connection, workspace, FLAT, 1.0)
    frame = _page(connection, workspace)
    assert {it.regime_key: it.untried for it in frame.gaps} == {regime_key(TREND): ()}
    connection.execute(
        "UPDATE backtest_runs SET regime_oos = regime_oos || %s::jsonb WHERE run_kind = 'test_variant'",
        ['{"ts_start": "2021-01-04T00:00:00Z", "ts_end": "2021-06-30T00:00:00Z"}'],
    )
    gaps = {it.regime_key: it.untried for it in _page(connection, workspace).gaps}
    assert [it[2:5] for it in gaps[regime_key(FLAT)]] == [("AAPL", "2021-01-04", "2021-06-30")]


def test_the_trial_that_was_best_in_sample_stands_for_its_tune(
    connection: Connection, workspace: Workspace
) -> None:
    lost = _tune(connection, workspace, (1.0, 9.0), (3.0, 0.5), (None, 7.0))
    gained = _tune(connection, workspace, (1.0, 1.5), symbol="IBM")
    _tune(connection, workspace, (None, 4.0))
    frame = _page(connection, workspace)
    pairs = {it.tune_id: (it.symbol, it.in_sample, it.out_of_sample) for it in frame.sample_pairs}
    assert pairs == {str(lost): ("AAPL", 3.0, 0.5), str(gained): ("IBM", 1.0, 1.5)}
    # medians of (3, 1), (0.5, 1.5) and (2.5, -0.5); one of the two lost
    (gap,) = frame.sample_gaps
    assert gap == ("trend_following", "1d", 2, 2.0, 1.0, 1.0, 0.5)


def test_postgres_refuses_every_write_while_the_frame_is_read(
    connection: Connection, workspace: Workspace
) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), one_moment(connection):
        connection.execute("UPDATE workspaces SET name = 'changed'")


def test_all_of_a_frame_is_of_one_moment(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    won(connection, workspace, TREND, 1.0)
    learn(connection, workspace)
    with one_moment(connection), connect(database_url) as beside:
        assert len(read_frame(connection, workspace.id).groups) == 1
        beside.execute("UPDATE backtest_tunes SET regime_key = NULL")
        assert len(read_frame(connection, workspace.id).groups) == 1
    assert read_frame(connection, workspace.id).groups == ()


def test_the_command_writes_the_page_and_says_where(
    connection: Connection, workspace: Workspace, tmp_path: Path
) -> None:
    won(connection, workspace, TREND, 1.0)
    learn(connection, workspace)
    target = tmp_path / "page.html"
    done = run_here("dashboard", "--workspace-id", workspace.id, "-o", target)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"Written: {target}\n", "")
    assert "uptrend · high_vol · –" in target.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("workspace_id", "output", "says"),
    [(ANY_ID, "page.html", f"There is no workspace {ANY_ID}"), (None, ".", "is a directory")],
)
def test_bad_arguments_end_with_two_and_write_nothing(
    workspace: Workspace, tmp_path: Path, workspace_id: Any, output: str, says: str
) -> None:
    done = run_here("dashboard", "--workspace-id", workspace_id or workspace.id, "-o", tmp_path / output)
    assert done.returncode == 2
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_workspace_has_no_frame(connection: Connection) -> None:
    with pytest.raises(BadArgumentError, match="There is no workspace"):
        read_frame(connection, UUID(ANY_ID))


def test_a_page_of_a_workspace_without_a_row_is_whole(connection: Connection, workspace: Workspace) -> None:
    page = dashboard_page(read_frame(connection, workspace.id))
    assert page.startswith("<!DOCTYPE html>")
    assert "kb-pipeline demo" in page
