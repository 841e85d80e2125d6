"""Drift over a real database and real price files: what is kept, what counts twice, what is skipped."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.errors import BadArgumentError, OhlcvFileError
from kb_pipeline.questions.drift import DriftRequest, evaluate_drift
from kb_pipeline.questions.drift_report import DriftReport
from kb_pipeline.storage.drift_events import read_events
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.builders import add_strategy, add_trial, add_tune, add_workspace
from kb_pipeline_tests.conftest import Workspace
from kb_pipeline_tests.integration.drift_world import (
    FIRST_DAY,
    add_tuned_windows,
    write_bars,
    write_switched_bars,
)

Ask = Callable[..., DriftReport]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data root with 1,300 calm days of AAA, and let the environment name it."""
    (tmp_path / "ohlcv").mkdir()
    write_bars(tmp_path / "ohlcv" / "AAA_1d.csv", np.full(1_300, 0.01))
    monkeypatch.setenv("KB_DATA_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def ask(connection: Connection, workspace: Workspace, root: Path) -> Ask:
    """Return the question about the workspace, whose strategy was tuned five times on AAA."""
    add_tuned_windows(connection, workspace, root / "ohlcv" / "AAA_1d.csv", (250, 500, 750, 1_000, 1_250))

    def asked(*, dry_run: bool = False, **options: Any) -> DriftReport:
        return evaluate_drift(connection, DriftRequest(workspace_id=workspace.id, **options), dry_run=dry_run)

    return asked


def _rows(connection: Connection, table: str) -> list[tuple[Any, ...]]:
    return connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4, 5").fetchall()  # type: ignore[call-overload]


def _reasons(report: DriftReport) -> list[str]:
    return [str(it.verdict.reason) for it in report.evaluations]


# --- What is found and kept ----------------------------------------------------------------------


def test_an_unchanged_market_is_looked_at_and_raises_nothing(connection: Connection, ask: Ask) -> None:
    report = ask()
    (found,) = report.evaluations
    assert (found.strategy, found.symbol, found.timeframe) == ("trend_following", "AAA", "1d")
    assert found.newest_bar == FIRST_DAY + timedelta(days=1_299)
    assert (found.verdict.snapshots, found.verdict.windows_apart) == (5, 5)
    assert not report.alarms
    assert len(_rows(connection, "kb_drift_evaluations")) == 1
    assert _rows(connection, "kb_drift_events") == []


def test_a_switch_raises_one_event_however_often_one_looks(
    connection: Connection, workspace: Workspace, ask: Ask, root: Path
) -> None:
    path = root / "ohlcv" / "AAA_1d.csv"
    write_switched_bars(path, switched=60)
    first = ask()
    assert _reasons(first) == ["distance_beyond_null"]
    assert [it.is_new_event for it in first.evaluations] == [True]
    again = ask()
    assert [it.is_new_event for it in again.evaluations] == [False]
    assert len(_rows(connection, "kb_drift_evaluations")) == 1
    write_switched_bars(path, switched=61)
    assert [it.is_new_event for it in ask().evaluations] == [False]
    assert len(_rows(connection, "kb_drift_evaluations")) == 2
    (event,) = read_events(connection, workspace.id)
    assert event.first_bar == FIRST_DAY + timedelta(days=1_299 + 60)
    assert event.last_bar is None
    assert (event.strategy_name, event.symbol, event.reason) == (
        "trend_following",
        "AAA",
        "distance_beyond_null",
    )
    assert event.distance is not None
    assert event.distance_limit is not None
    assert event.distance > event.distance_limit
    assert {it.feature for it in event.moved} == {"atr_pct", "std_pct", "bb_width_pct"}
    assert "trend_following on AAA 1d" in event.sentence


def test_a_dry_run_finds_the_same_and_keeps_nothing(connection: Connection, ask: Ask, root: Path) -> None:
    write_switched_bars(root / "ohlcv" / "AAA_1d.csv", switched=60)
    rehearsed = ask(dry_run=True)
    assert _rows(connection, "kb_drift_evaluations") == _rows(connection, "kb_drift_events") == []
    assert [it.verdict for it in rehearsed.evaluations] == [it.verdict for it in ask().evaluations]


def test_an_event_ends_after_three_quiet_evaluations_and_another_may_follow(
    connection: Connection, workspace: Workspace, ask: Ask, root: Path
) -> None:
    path = root / "ohlcv" / "AAA_1d.csv"
    write_switched_bars(path, switched=60)
    ask()
    ended = []
    for calm in (230, 231, 232):
        write_switched_bars(path, switched=60, calm=calm)
        assert not ask().alarms
        ended.append(read_events(connection, workspace.id)[0].last_bar)
    assert ended == [None, None, FIRST_DAY + timedelta(days=1_299 + 60 + 232)]
    write_switched_bars(path, switched=60, calm=232, again=60)
    assert [it.is_new_event for it in ask().evaluations] == [True]
    assert len(read_events(connection, workspace.id)) == 2


def test_older_bars_are_kept_but_raise_no_event(connection: Connection, ask: Ask, root: Path) -> None:
    write_switched_bars(root / "ohlcv" / "AAA_1d.csv", switched=60, calm=230)
    ask()
    past = write_switched_bars(root / "AAA_1d.csv", switched=60)
    report = ask(ohlcv_file=past)
    assert len(report.alarms) == 1
    assert [it.is_new_event for it in report.evaluations] == [False]
    assert len(_rows(connection, "kb_drift_evaluations")) == 2
    assert _rows(connection, "kb_drift_events") == []


# --- The key -------------------------------------------------------------------------------------


def _with_an_unlocated_tune(connection: Connection, workspace: Workspace) -> None:
    """Make a tune whose snapshot has tags and no bars: any other key counts, for nothing tells of chance."""
    tags = {"schema_version": "regime_v1_1", "regime_tags": ["flat", "low_vol", "noisy"]}
    run = {"dataset_meta": {"symbol": "BBB", "timeframe": "1d"}}
    add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0, regime=tags, run=run)
    backfill_attribution(connection, AttributionRequest(workspace_id=workspace.id), dry_run=False)


def _asked_in_turn(
    connection: Connection, workspace: Workspace, root: Path, kinds: Sequence[tuple[int, bool]]
) -> list[str]:
    """Evaluate files that end on certain days, each in a falling market or one that is flat and calm."""
    reasons = []
    for bars, is_falling in kinds:
        drift, std = (-0.02, 0.001) if is_falling else (0.0, 0.001)
        path = write_bars(root / "BBB_1d.csv", np.full(bars, std), drift=drift)
        if not is_falling:
            path.write_text(_flat_file(bars))
        request = DriftRequest(workspace_id=workspace.id, ohlcv_file=path, symbol="BBB")
        reasons += _reasons(evaluate_drift(connection, request, dry_run=False))
    return reasons


def _flat_file(bars: int) -> str:
    """Return a price file that swings between 100.0 and 100.1: flat, low volatility, noisy."""
    lines = ["timestamp,open,high,low,close,volume"]
    for at in range(bars):
        price = 100.0 + 0.1 * (at % 2)
        lines.append(f"{FIRST_DAY + timedelta(days=at):%Y-%m-%d},{price},{price},{price},{price},1")
    return "\n".join(lines) + "\n"


def test_a_key_that_differs_on_three_evaluations_in_a_row_is_an_alarm(
    connection: Connection, workspace: Workspace, root: Path
) -> None:
    _with_an_unlocated_tune(connection, workspace)
    reasons = _asked_in_turn(connection, workspace, root, [(100, True), (101, True), (102, True)])
    assert reasons == ["unconfirmed", "unconfirmed", "key_changed"]
    (event,) = read_events(connection, workspace.id)
    assert event.training_keys == ("regime_v1_1|default_v1|flat|low_vol|noisy",)
    assert event.regime_key.split("|")[2] == "downtrend"
    assert "no bars of theirs were at hand" in event.sentence


def test_the_same_newest_bar_counts_once(connection: Connection, workspace: Workspace, root: Path) -> None:
    _with_an_unlocated_tune(connection, workspace)
    looked_at = [(100, True), (100, True), (100, True), (101, True), (101, True)]
    assert set(_asked_in_turn(connection, workspace, root, looked_at)) == {"unconfirmed"}
    assert _asked_in_turn(connection, workspace, root, [(102, True), (102, True)]) == ["key_changed"] * 2
    assert len(read_events(connection, workspace.id)) == 1


def test_a_key_that_comes_and_goes_is_no_alarm(
    connection: Connection, workspace: Workspace, root: Path
) -> None:
    _with_an_unlocated_tune(connection, workspace)
    whipsaw = [(100, True), (101, True), (102, False), (103, True), (104, True), (105, False)]
    reasons = _asked_in_turn(connection, workspace, root, whipsaw)
    assert reasons == [
        *("unconfirmed", "unconfirmed", "too_few_training_snapshots"),
        *("unconfirmed", "unconfirmed", "too_few_training_snapshots"),
    ]
    assert read_events(connection, workspace.id) == []


# --- Which series, and which are skipped ---------------------------------------------------------


def test_bars_of_training_windows_come_from_the_data_root_where_the_file_given_lacks_them(
    ask: Ask, root: Path
) -> None:
    whole = (root / "ohlcv" / "AAA_1d.csv").read_text().splitlines()
    short = root / "AAA_1d.csv"
    short.write_text("\n".join([whole[0], *whole[-209:]]) + "\n")
    (with_root,) = ask(ohlcv_file=short, dry_run=True).evaluations
    (alone,) = ask(dry_run=True).evaluations
    assert with_root.verdict == alone.verdict
    (root / "ohlcv" / "AAA_1d.csv").unlink()
    (without,) = ask(ohlcv_file=short, dry_run=True).evaluations
    # The window that ends at day 1,250 begins at 1,050; the file begins at 1,091.
    assert (without.verdict.windows_apart, without.verdict.distance) == (0, None)


def test_a_file_given_may_tell_another_story_of_the_training_windows_but_is_not_believed(
    ask: Ask, root: Path
) -> None:
    # Its last training window is wild too; the data root knows better, unless its file cannot be read.
    wild = np.concatenate((np.full(1_100, 0.01), np.full(200, 0.05)))
    given = write_bars(root / "AAA_1d.csv", wild)
    (found,) = ask(ohlcv_file=given, dry_run=True).evaluations
    assert found.verdict.reason == "distance_beyond_null"
    (root / "ohlcv" / "AAA_1d.csv").write_text("timestamp,open,high,low,close\n2020-01-01,1,1,1,-5\n")
    (alone,) = ask(ohlcv_file=given, dry_run=True).evaluations
    assert alone.verdict.limit is not None
    assert found.verdict.limit is not None
    assert alone.verdict.limit > 2 * found.verdict.limit


def test_series_that_cannot_be_looked_at_are_named(
    connection: Connection, workspace: Workspace, ask: Ask, root: Path
) -> None:
    bars = root / "ohlcv" / "AAA_1d.csv"
    add_tuned_windows(connection, workspace, bars, (250,), symbol="NONE")
    add_tuned_windows(connection, workspace, bars, (250,), symbol="BAD")
    add_tuned_windows(connection, workspace, bars, (250,), symbol=None)
    (root / "ohlcv" / "BAD_1d.csv").write_text("timestamp,open,high,low,close\n2020-01-01,1,1,1,-5\n")
    write_bars(root / "ohlcv" / "NEW_1d.csv", np.full(49, 0.01))
    add_tuned_windows(connection, workspace, bars, (250,), symbol="NEW")
    report = ask()
    assert {(it.symbol, str(it.reason)) for it in report.skipped} == {
        ("NONE", "no_price_file"),
        ("BAD", "price_file_refused"),
        (None, "no_symbol"),
    }
    assert dict(zip([it.symbol for it in report.evaluations], _reasons(report), strict=True))["NEW"] == (
        "not_enough_bars"
    )
    assert {row[2] for row in _rows(connection, "kb_drift_evaluations")} == {"AAA"}


def test_a_snapshot_that_cannot_be_read_is_left_out_and_named_where_there_is_no_other(
    connection: Connection, workspace: Workspace, ask: Ask
) -> None:
    unreadable = """ '{"schema_version": "regime_v9", "ts_start": "x"}' """
    connection.execute(
        f"UPDATE backtest_tune_runs SET metrics_oos = jsonb_set(metrics_oos, '{{regime}}', {unreadable})"  # type: ignore[call-overload]
    )
    report = ask()
    assert [(it.symbol, str(it.reason)) for it in report.skipped] == [("AAA", "no_readable_snapshot")]


def test_a_strategy_a_symbol_and_a_timeframe_may_be_chosen(
    connection: Connection, workspace: Workspace, ask: Ask, root: Path
) -> None:
    other = Workspace(workspace.id, add_strategy(connection, workspace.id, "reversal"))
    bars = root / "ohlcv" / "AAA_1d.csv"
    add_tuned_windows(connection, other, bars, (250, 500))
    write_bars(root / "ohlcv" / "CCC_1d.csv", np.full(300, 0.01), seed=3)
    add_tuned_windows(connection, other, root / "ohlcv" / "CCC_1d.csv", (250,), symbol="CCC")

    def series(**options: Any) -> list[tuple[str, str]]:
        return [(it.strategy, it.symbol) for it in ask(dry_run=True, **options).evaluations]

    assert series() == [("reversal", "AAA"), ("reversal", "CCC"), ("trend_following", "AAA")]
    assert series(strategy="reversal") == [("reversal", "AAA"), ("reversal", "CCC")]
    assert series(symbol="ccc") == [("reversal", "CCC")]
    assert series(timeframe="1h") == []
    said = "No attributed tune of 1h bars; there are AAA 1d, CCC 1d."
    assert ask(dry_run=True, timeframe="1h").to_text() == said
    with pytest.raises(BadArgumentError, match="of symbol 'BBB'; there are AAA 1d, CCC 1d"):
        series(symbol="bbb")
    with pytest.raises(BadArgumentError, match="no strategy 'none'"):
        ask(strategy="none")


def test_two_tunes_of_one_window_are_one_snapshot(
    connection: Connection, workspace: Workspace, ask: Ask, root: Path
) -> None:
    (before,) = ask(dry_run=True).evaluations
    add_tuned_windows(connection, workspace, root / "ohlcv" / "AAA_1d.csv", (500, 1_250))
    (after,) = ask(dry_run=True).evaluations
    assert sorted(after.verdict.keys_then) == sorted(before.verdict.keys_then)
    assert replace(after.verdict, keys_then=()) == replace(before.verdict, keys_then=())


def test_another_workspace_sees_and_changes_nothing(
    connection: Connection, workspace: Workspace, ask: Ask, root: Path
) -> None:
    write_switched_bars(root / "ohlcv" / "AAA_1d.csv", switched=60)
    ask()
    other = add_workspace(connection, "other")
    report = evaluate_drift(connection, DriftRequest(workspace_id=other.id), dry_run=False)
    assert (report.evaluations, report.skipped) == ([], [])
    assert read_events(connection, other.id) == []
    assert len(read_events(connection, workspace.id)) == 1


def test_what_cannot_be_used_is_refused_before_anything_is_kept(
    connection: Connection, ask: Ask, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nameless = write_bars(root / "prices 2020.csv", np.full(60, 0.01))
    with pytest.raises(BadArgumentError, match="how long its bars are"):
        ask(ohlcv_file=nameless)
    with pytest.raises(BadArgumentError, match="whose its bars are"):
        ask(ohlcv_file=nameless, timeframe="1d")
    (root / "AAA_1d.csv").write_text("timestamp,open,high,low,close\n2020-01-01,1,1,1,-5\n")
    with pytest.raises(OhlcvFileError):
        ask(ohlcv_file=root / "AAA_1d.csv")
    monkeypatch.setenv("KB_DATA_ROOT", str(root / "nowhere"))
    with pytest.raises(BadArgumentError, match="could not be read"):
        ask()
    assert _rows(connection, "kb_drift_evaluations") == []


def test_times_are_those_of_the_bars(connection: Connection, workspace: Workspace, ask: Ask) -> None:
    connection.execute("SET timezone TO 'Pacific/Auckland'")
    ask()
    (row,) = connection.execute("SELECT newest_bar FROM kb_drift_evaluations").fetchall()
    assert row[0].astimezone(UTC) == datetime(2023, 7, 23, tzinfo=UTC)
