"""Uplift in a real Postgres: what is read, what is kept, what replaces it, and what the command says."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.uplift import UpliftRequest, measure_uplift
from kb_pipeline.domain.uplift_cells import UpliftCell, UpliftReport, UpliftScope
from kb_pipeline.errors import AlreadyRunningError, BadArgumentError
from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage import regime_uplift
from kb_pipeline.storage.locks import writer_lock
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline.storage.regime_uplift import read_uplift
from kb_pipeline_tests.acceptance.commands import ANY_ID, ESCAPE, run_here
from kb_pipeline_tests.builders import (
    FLAT_KEY,
    FLAT_SNAPSHOT,
    TREND_SNAPSHOT,
    add_strategy,
    add_trial,
    add_tune,
    add_workspace,
)
from kb_pipeline_tests.conftest import Workspace

A, B, C = {"n": 1}, {"n": 2}, {"n": 3}
TREND_KEY = "regime_v1_1|default_v1|uptrend|high_vol|efficient"


def _tune(
    connection: Connection,
    workspace: Workspace,
    scores: Sequence[tuple[Mapping[str, Any], Any]],
    *,
    regime: Any = FLAT_SNAPSHOT,
    symbol: str | None = "AAPL",
    timeframe: str = "1d",
    in_sample: Any = None,
    **columns: Any,
) -> UUID:
    """Insert a completed tune with a trial for each (parameters, score)."""
    tune_id = add_tune(connection, workspace, **columns)
    dataset = {"timeframe": timeframe, **({"symbol": symbol} if symbol else {})}
    metrics_is = {} if in_sample is None else {"metrics_is": {"sharpe": in_sample}}
    for params, sharpe in scores:
        add_trial(
            connection,
            workspace,
            tune_id,
            params=params,
            sharpe=sharpe,
            regime=regime,
            run={"dataset_meta": dataset},
            **metrics_is,
        )
    return tune_id


def _four(connection: Connection, workspace: Workspace, **columns: Any) -> None:
    """Insert four tunes: A is best in the two of the trend, B in the two without, and B over all."""
    for a, b, regime in (
        (3, 1, TREND_SNAPSHOT),
        (4, 2, TREND_SNAPSHOT),
        (0, 6, FLAT_SNAPSHOT),
        (0.5, 8, FLAT_SNAPSHOT),
    ):
        _tune(connection, workspace, [(A, a), (B, b)], regime=regime, **columns)


def _attribute(connection: Connection, workspace: Workspace) -> None:
    backfill_attribution(connection, AttributionRequest(workspace_id=workspace.id), dry_run=False)


def _measure(connection: Connection, workspace: Workspace, *, dry_run: bool = False) -> UpliftReport:
    return measure_uplift(connection, UpliftRequest(workspace_id=workspace.id), dry_run=dry_run)


def _cell(report: UpliftReport, scope: UpliftScope, **names: Any) -> UpliftCell:
    (found,) = [
        cell
        for cell in report.of_scope(scope)
        if all(getattr(cell, name) == it for name, it in names.items())
    ]
    return found


def _ledger(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT status, dry_run, scanned_count, processed_count, skipped_count, counts, config"
        "  FROM kb_backfill_runs WHERE backfill_type = 'uplift' ORDER BY started_at"
    ).fetchall()


def test_uplift_is_measured_by_regime_and_by_strategy_and_kept_as_measured(
    connection: Connection, workspace: Workspace
) -> None:
    _four(connection, workspace, in_sample=5.0)
    _attribute(connection, workspace)
    report = _measure(connection, workspace)
    assert (report.scanned, report.known, report.unknown) == (4, 4, {})
    # In the trend A is chosen where B would be: 3 - 1 and 4 - 2. Elsewhere B is the baseline itself.
    trend = _cell(report, UpliftScope.REGIME, regime_key=TREND_KEY)
    assert (trend.uplift.n, trend.uplift.median, trend.share_positive, trend.thin) == (2, 2.0, 1.0, True)
    assert (trend.gap_n, trend.gap) == (2, 1.5), "5 in sample minus 3 and 4"
    assert (trend.trend_tag, trend.vol_tag, trend.efficiency_tag) == ("uptrend", "high_vol", "efficient")
    flat = _cell(report, UpliftScope.REGIME, regime_key=FLAT_KEY)
    assert (flat.uplift.median, flat.same, flat.tiers) == (0.0, 2, {"exact": 2})
    strategy = _cell(report, UpliftScope.STRATEGY, strategy_name="trend_following")
    assert (strategy.tunes, strategy.uplift.median) == (4, 1.0)
    assert len(report.of_scope(UpliftScope.STRATEGY_REGIME, str(workspace.strategy_id))) == 2
    assert read_uplift(connection, workspace.id) == report


def test_a_new_measurement_takes_the_place_of_the_last_one_and_both_stand_in_the_ledger(
    connection: Connection, workspace: Workspace
) -> None:
    other = add_workspace(connection)
    for it in (workspace, other):
        _four(connection, it)
        _attribute(connection, it)
        _measure(connection, it)
    _tune(connection, workspace, [(C, 1.0)])
    before = read_uplift(connection, other.id)
    report = _measure(connection, workspace)
    assert (report.scanned, report.unknown) == (5, {"not_attributed": 1})
    assert read_uplift(connection, workspace.id) == report
    assert read_uplift(connection, other.id) == before
    settings = {"seed": 20250101, "draws": 1000, "level": 0.95}
    assert _ledger(connection) == [
        ("completed", False, 4, 4, 0, {}, settings),
        ("completed", False, 4, 4, 0, {}, settings),
        ("completed", False, 5, 4, 1, {"not_attributed": 1}, settings),
    ]


def test_a_dry_run_measures_the_same_and_keeps_nothing(connection: Connection, workspace: Workspace) -> None:
    _four(connection, workspace)
    _attribute(connection, workspace)
    rehearsed = _measure(connection, workspace, dry_run=True)
    assert (read_uplift(connection, workspace.id), _ledger(connection)) == (None, [])
    assert _measure(connection, workspace).cells == rehearsed.cells
    assert rehearsed.computed_at is None


def test_nothing_is_replaced_where_the_write_fails(
    connection: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    _four(connection, workspace)
    _attribute(connection, workspace)
    kept = _measure(connection, workspace)
    # The cells are gone and the new ones written by then; what fails is the last step of all.
    connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON kb_backfill_runs FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    with pytest.raises(psycopg.errors.RaiseException):
        _measure(connection, workspace)
    assert read_uplift(connection, workspace.id) == kept
    assert len(_ledger(connection)) == 1


def test_there_is_one_writer_a_workspace(
    database_url: str, connection: Connection, workspace: Workspace
) -> None:
    with connect(database_url) as other, writer_lock(other, BackfillKind.UPLIFT, workspace.id):
        with pytest.raises(AlreadyRunningError):
            _measure(connection, workspace)
        assert _measure(connection, workspace, dry_run=True).scanned == 0


def test_an_unknown_workspace_is_named(connection: Connection, workspace: Workspace) -> None:
    with pytest.raises(BadArgumentError, match=ANY_ID):
        measure_uplift(connection, UpliftRequest(workspace_id=UUID(ANY_ID)), dry_run=True)


def test_scores_of_another_timeframe_objective_strategy_or_workspace_take_no_part(
    connection: Connection, workspace: Workspace
) -> None:
    _four(connection, workspace)
    _four(connection, workspace, timeframe="1h")
    _four(connection, workspace, objective_type="calmar")
    _four(connection, Workspace(workspace.id, add_strategy(connection, workspace.id)))
    _four(connection, add_workspace(connection))
    _attribute(connection, workspace)
    report = _measure(connection, workspace)
    assert report.scanned == 16
    for scope, count in (
        (UpliftScope.STRATEGY, 4),
        (UpliftScope.REGIME, 6),
        (UpliftScope.STRATEGY_REGIME, 8),
    ):
        assert len(report.of_scope(scope)) == count
    found = {
        (it.timeframe, it.objective): it.uplift
        for it in report.of_scope(UpliftScope.REGIME)
        if it.trend_tag == "uptrend"
    }
    assert {name: (it.n, it.median) for name, it in found.items()} == {
        ("1d", "sharpe"): (4, 2.0),
        ("1h", "sharpe"): (2, 2.0),
        ("1d", "calmar"): (2, 2.0),
    }


def test_only_completed_trials_with_a_finite_score_count_and_only_a_current_attribution(
    connection: Connection, workspace: Workspace
) -> None:
    _four(connection, workspace)
    _attribute(connection, workspace)
    broken = _tune(connection, workspace, [(A, None), (B, "12"), (C, None)])
    add_trial(connection, workspace, broken, params=A, metrics_oos='{"sharpe": 1e400}')
    add_trial(connection, workspace, broken, params=A, sharpe=9.0, status="failed")
    _tune(connection, workspace, [(A, 99.0), (B, -99.0)], status="running")
    _attribute(connection, workspace)
    again = _tune(connection, workspace, [(A, 1.0), (B, 1.0)])
    _attribute(connection, workspace)
    connection.execute("UPDATE backtest_tunes SET completed_at = now() WHERE id = %s", [again])
    report = _measure(connection, workspace)
    assert (report.scanned, report.known) == (6, 4)
    assert report.unknown == {"not_attributed": 1, "no_score": 1}
    assert _cell(report, UpliftScope.REGIME, regime_key=TREND_KEY).uplift.median == 2.0


def test_the_declared_default_is_the_baseline_as_it_is_for_attribution(
    connection: Connection, workspace: Workspace
) -> None:
    connection.execute(
        "INSERT INTO kb_strategy_specs (workspace_id, strategy_entity_id, spec_json) VALUES (%s, %s, %s)",
        [workspace.id, workspace.strategy_id, json.dumps({"default_params": B | {"n": 2.0}})],
    )
    _four(connection, workspace)
    _attribute(connection, workspace)
    cell = _cell(_measure(connection, workspace), UpliftScope.STRATEGY)
    assert (cell.by_default, cell.uplift.median) == (4, 1.0)
    rows = connection.execute("SELECT baseline_oos_score FROM backtest_tunes ORDER BY created_at").fetchall()
    assert rows == [(1.0,), (2.0,), (6.0,), (8.0,)], "what B scored"


def test_an_interval_draws_symbols_and_a_tune_without_one_is_of_a_symbol_of_its_own(
    connection: Connection, workspace: Workspace
) -> None:
    for number, symbol in enumerate(("AAPL", "AAPL", "MSFT", "MSFT", None, None)):
        _tune(connection, workspace, [(A, 1.0 + number), (B, 0.0)], symbol=symbol)
    _attribute(connection, workspace)
    cell = _cell(_measure(connection, workspace), UpliftScope.REGIME)
    assert (cell.symbols, cell.clustered_by, cell.few_symbols, cell.thin) == (3, "symbol", True, False)
    assert (cell.same, cell.uplift.low, cell.uplift.high) == (6, 0.0, 0.0)


def test_reading_is_of_one_moment_and_refuses_writes(
    connection: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def look(session: Connection, workspace_id: UUID) -> list[tuple[str, str]]:
        seen.append(session.execute("SHOW transaction_isolation").fetchone())
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), session.transaction():
            session.execute("DELETE FROM kb_regime_uplift")
        return []

    monkeypatch.setattr(regime_uplift, "strategies", look)
    _measure(connection, workspace, dry_run=True)
    assert seen == [("repeatable read",)]


# --- The command ---------------------------------------------------------------------------------


def test_the_command_says_what_its_numbers_mean_and_no_name_steers_the_terminal(
    connection: Connection, workspace: Workspace
) -> None:
    strategy_id = add_strategy(connection, workspace.id, f"odd {ESCAPE}\nname")
    _four(connection, Workspace(workspace.id, strategy_id))
    _attribute(connection, workspace)
    done = run_here("uplift", "--workspace-id", workspace.id)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 completed tunes in the workspace, 4 with a known uplift." in done.stdout
    for word in ("interval    Meant to", "below 5 tunes (thin)", "over blind", "Kept in kb_regime_uplift."):
        assert word in done.stdout
    assert "\x1b" not in done.stdout
    assert len([line for line in done.stdout.splitlines() if line.startswith("odd")]) == 3


def test_the_command_shows_one_strategy_by_name_and_refuses_one_that_is_not_there(
    connection: Connection, workspace: Workspace
) -> None:
    _four(connection, workspace)
    _four(connection, Workspace(workspace.id, add_strategy(connection, workspace.id)))
    _attribute(connection, workspace)
    arguments = ("uplift", "--workspace-id", workspace.id, "--json", "--strategy")
    shown = json.loads(run_here(*arguments, "reversal").stdout)
    assert {cell["strategy_name"] for cell in shown["cells"]} == {"reversal"}
    assert (shown["scanned"], shown["known"], shown["unknown"]) == (8, 8, {})
    kept = read_uplift(connection, workspace.id)
    refused = run_here(*arguments, "nobody")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "trend_following" in refused.stderr
    assert read_uplift(connection, workspace.id) == kept


def test_a_workspace_without_tunes_has_nothing_to_show(connection: Connection, workspace: Workspace) -> None:
    done = run_here("uplift", "--workspace-id", workspace.id, "--dry-run")
    assert done.returncode == 0
    assert "0 completed tunes" in done.stdout
    assert "Every regime, over all strategies: no tunes." in done.stdout
    assert "Nothing was kept (dry run)." in done.stdout
