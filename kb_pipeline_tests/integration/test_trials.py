"""Ingesting trials into a real Postgres: what becomes a row, what changes it, what puts it away."""

import json
import re
from typing import Any
from uuid import UUID

import pytest

from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.invariants import breaches
from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.backfills.trials import TrialsRequest, ingest_trials
from kb_pipeline.sql import statement
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.builders import (
    FLAT_KEY,
    FLAT_SNAPSHOT,
    NESTED,
    TREND_SNAPSHOT,
    add_run,
    add_trial,
    add_tune,
    add_workspace,
)
from kb_pipeline_tests.conftest import Workspace

TOO_LONG = '{"n": ' + "9" * 5_000 + "}"
"""Valid JSON to Postgres, and a number of more digits than Python reads."""


def _ingest(
    connection: Connection, workspace: Workspace, *, dry_run: bool = False, **options: Any
) -> BackfillReport:
    return ingest_trials(connection, TrialsRequest(workspace_id=workspace.id, **options), dry_run=dry_run)


def _trial(connection: Connection, source_id: UUID, names: str) -> Any:
    row = connection.execute(
        f"SELECT {names} FROM kb_trials WHERE source_id = %s",
        [source_id],
    ).fetchone()
    assert row is not None, f"{source_id} was not ingested"
    return row if "," in names else row[0]


def _sources(connection: Connection) -> set[UUID]:
    return {row[0] for row in connection.execute("SELECT source_id FROM kb_trials WHERE archived_at IS NULL")}


def _set(connection: Connection, table: str, source_id: UUID, assignment: str) -> None:
    key = "run_id" if table == "backtest_tune_runs" else "id"
    connection.execute(f"UPDATE {table} SET {assignment} WHERE {key} = %s", [source_id])


def test_candidates_promoted_runs_and_completed_trials_become_rows_and_nothing_else(
    connection: Connection, workspace: Workspace
) -> None:
    wanted = {add_run(connection, workspace, kb_status=status) for status in ("candidate", "promoted")}
    for columns in (
        {"kb_status": "excluded"},
        {"kb_status": "rejected"},
        {"kb_status": None},
        {"kb_status": "candidate", "status": "failed"},
        {"kb_status": "candidate", "run_kind": "backtest"},
    ):
        add_run(connection, workspace, **columns)
    tune_id = add_tune(connection, workspace)
    wanted |= {add_trial(connection, workspace, tune_id, sharpe=sharpe) for sharpe in (1, None)}
    add_trial(connection, workspace, tune_id, sharpe=1, status="failed")
    add_trial(connection, workspace, tune_id, sharpe=1, kb_status="rejected")
    add_trial(connection, workspace, add_tune(connection, workspace, status="running"), sharpe=1)
    report = _ingest(connection, workspace)
    assert (report.scanned, report.updated, report.skipped) == (4, 4, {})
    assert _sources(connection) == wanted


def test_a_candidate_s_row_holds_fractions_counts_and_the_names_of_its_regime(
    connection: Connection, workspace: Workspace
) -> None:
    (plan_id,) = connection.execute(
        "INSERT INTO run_plans (workspace_id, objective_name, plan) VALUES (%s, 'calmar', '{}') RETURNING id",
        [workspace.id],
    ).fetchone() or (None,)
    run_id = add_run(
        connection,
        workspace,
        kb_status="candidate",
        run_plan_id=plan_id,
        params={"slow": 20, "fast": 5},
        objective_score=3.5,
        dataset_meta={"symbol": "AAPL", "timeframe": "1d"},
        summary={"sharpe": 1.5, "return_pct": 25, "max_drawdown_pct": -12.5, "trades": 60},
        regime_oos=FLAT_SNAPSHOT,
    )
    _ingest(connection, workspace)
    assert _trial(
        connection,
        run_id,
        "source_type, tune_id, strategy_entity_id, strategy_name, experiment_type, kb_status",
    ) == ("test_variant", None, workspace.strategy_id, "trend_following", "sweep", "candidate")
    assert _trial(
        connection,
        run_id,
        "objective, objective_score, sharpe_oos, return_fraction_oos, max_drawdown_fraction_oos, trades_oos",
    ) == ("calmar", 3.5, 1.5, 0.25, 0.125, 60)
    assert _trial(connection, run_id, "timeframe, symbol") == ("1d", "AAPL")
    assert _trial(
        connection,
        run_id,
        "regime_key, regime_schema_version, trend_tag, vol_tag, efficiency_tag, regime_oos, params",
    ) == (FLAT_KEY, "regime_v1_1", "flat", "low_vol", "noisy", FLAT_SNAPSHOT, {"slow": 20, "fast": 5})


def test_a_tune_s_row_holds_its_own_metrics_and_the_symbol_of_its_run(
    connection: Connection, workspace: Workspace
) -> None:
    tune_id = add_tune(connection, workspace, objective_type="sortino")
    metrics = {"sharpe": 0.5, "return_pct": -3, "max_drawdown_pct": 40, "trade_count": 7}
    run_id = add_trial(
        connection,
        workspace,
        tune_id,
        params={"fast": 5, "slow": 20},
        metrics_oos={**metrics, "regime": TREND_SNAPSHOT},
        metrics_is={"sharpe": 2.5},
        run={"dataset_meta": {"symbol": "EURUSD", "timeframe": "1h"}},
    )
    _ingest(connection, workspace)
    assert _trial(
        connection,
        run_id,
        "source_type, tune_id, experiment_type, kb_status, objective, sharpe_is, trend_tag",
    ) == ("tune_run", tune_id, "tune", "promoted", "sortino", 2.5, "uptrend")
    assert _trial(connection, run_id, "timeframe, symbol") == ("1h", "EURUSD")
    assert _trial(
        connection, run_id, "sharpe_oos, return_fraction_oos, max_drawdown_fraction_oos, trades_oos"
    ) == (0.5, -0.03, 0.4, 7)


def test_equal_parameters_have_one_fingerprint_whatever_their_order(
    connection: Connection, workspace: Workspace
) -> None:
    for params in ('{"fast": 5, "slow": 20}', '{"slow": 20, "fast": 5}', '{"fast": 5, "slow": 21}'):
        add_run(connection, workspace, kb_status="candidate", params=params)
    _ingest(connection, workspace)
    counts = "SELECT count(*) FROM kb_trials GROUP BY params_fingerprint ORDER BY 1"
    assert connection.execute(counts).fetchall() == [(1,), (2,)]


# --- What cannot be read -------------------------------------------------------------------------


def test_a_trial_without_a_regime_that_can_be_read_is_ingested_for_the_regime_blind(
    connection: Connection, workspace: Workspace
) -> None:
    snapshots = [None, "null", "[]", '{"schema_version": "regime_v9", "regime_tags": []}', TOO_LONG]
    snapshots += ['{"schema_version": "regime_v1_1", "regime_tags": ["uptrend", "downtrend"]}']
    runs = [add_run(connection, workspace, kb_status="candidate", regime_oos=it) for it in snapshots]
    add_run(connection, workspace, kb_status="candidate", regime_oos=FLAT_SNAPSHOT)
    report = _ingest(connection, workspace)
    assert (report.updated, report.skipped) == (7, {})
    assert report.notices["without_a_regime"] == 6
    for run_id in runs:
        assert _trial(connection, run_id, "regime_key, regime_oos, regime_schema_version") == (
            *(None, None, None),
        )


def test_metrics_that_are_no_finite_numbers_are_null(connection: Connection, workspace: Workspace) -> None:
    tune_id = add_tune(connection, workspace)
    broken = [
        add_run(
            connection,
            workspace,
            kb_status="candidate",
            objective_score=score,
            summary='{"sharpe": 1e400, "return_pct": "5%", "max_drawdown_pct": -1e5000, "trades": 2.5}',
        )
        for score in ("NaN", "Infinity", "-Infinity")
    ]
    broken.append(add_trial(connection, workspace, tune_id, sharpe="x", objective_score="NaN"))
    report = _ingest(connection, workspace)
    assert (report.updated, report.skipped) == (4, {})
    names = "objective_score, sharpe_oos, return_fraction_oos, max_drawdown_fraction_oos, trades_oos"
    for source_id in broken:
        assert _trial(connection, source_id, names) == (None,) * 5


def test_numbers_stored_as_text_are_read_as_the_gate_reads_them(
    connection: Connection, workspace: Workspace
) -> None:
    summary = '{"sharpe": "1.5", "return_pct": "+5", "max_drawdown_pct": "-125e-1", "trades": "60"}'
    run_id = add_run(connection, workspace, summary=summary)
    backfill_candidacy(connection, CandidacyRequest(workspace_id=workspace.id), dry_run=False)
    _ingest(connection, workspace)
    names = "sharpe_oos, return_fraction_oos, max_drawdown_fraction_oos, trades_oos"
    assert _trial(connection, run_id, names) == (1.5, 0.05, 0.125, 60)
    assert breaches(connection, workspace.id) == {}


def test_parameters_that_cannot_be_read_are_counted_and_the_rest_goes_on(
    connection: Connection, workspace: Workspace
) -> None:
    bad = [
        add_run(connection, workspace, kb_status="candidate", params=params)
        for params in (TOO_LONG, f'{{"n": {NESTED}}}')
    ]
    good = add_run(connection, workspace, kb_status="candidate")
    report = _ingest(connection, workspace)
    assert report.examples == {"unreadable_row": [str(run_id) for run_id in bad]}
    assert _sources(connection) == {good}


def test_parameters_of_five_megabytes_are_ingested(connection: Connection, workspace: Workspace) -> None:
    run_id = add_run(connection, workspace, kb_status="candidate", params={"weights": "x" * 5_000_000})
    assert _ingest(connection, workspace).updated == 1
    assert len(_trial(connection, run_id, "params")["weights"]) == 5_000_000


# --- Again ---------------------------------------------------------------------------------------


def test_a_second_call_reads_nothing_and_a_touched_source_changes_nothing(
    connection: Connection, workspace: Workspace
) -> None:
    run_id = add_run(connection, workspace, kb_status="candidate")
    trial_id = add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1)
    _ingest(connection, workspace)
    before = connection.execute("SELECT content_hash, ingested_at FROM kb_trials ORDER BY 1").fetchall()
    assert _ingest(connection, workspace).scanned == 0
    _set(connection, "backtest_runs", run_id, "engine = 'other'")
    _set(connection, "backtest_tune_runs", trial_id, "kb_vector_dim = 3")
    touched = _ingest(connection, workspace)
    assert (touched.scanned, touched.notices["unchanged"]) == (2, 2)
    assert "Unchanged: 2" in touched.to_text().splitlines()
    assert (
        connection.execute("SELECT content_hash, ingested_at FROM kb_trials ORDER BY 1").fetchall() == before
    )
    assert _ingest(connection, workspace).scanned == 0


@pytest.mark.parametrize(
    ("table", "assignment", "expected"),
    [
        ("backtest_tune_runs", "metrics_oos = metrics_oos || '{\"sharpe\": 2}'", (2.0, FLAT_KEY, "AAPL")),
        ("backtest_runs", 'dataset_meta = \'{"symbol": "IBM"}\'', (1.0, FLAT_KEY, "IBM")),
        (
            "backtest_runs",
            f"regime_oos = '{json.dumps(TREND_SNAPSHOT)}'",
            (1.0, "regime_v1_1|default_v1|uptrend|high_vol|efficient", "AAPL"),
        ),
    ],
    ids=["metrics", "symbol", "regime"],
)
def test_a_changed_source_updates_its_row(
    connection: Connection, workspace: Workspace, table: str, assignment: str, expected: tuple[Any, ...]
) -> None:
    trial_id = add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1)
    _ingest(connection, workspace)
    before = _trial(connection, trial_id, "content_hash, ingested_at")
    _set(connection, table, trial_id, assignment)
    report = _ingest(connection, workspace)
    assert (report.updated, report.notices["unchanged"]) == (1, 0)
    assert _trial(connection, trial_id, "sharpe_oos, regime_key, symbol") == expected
    after = _trial(connection, trial_id, "content_hash, ingested_at")
    assert after[0] != before[0]
    assert after[1] > before[1]


def test_a_demoted_source_is_archived_and_brought_back_with_its_content(
    connection: Connection, workspace: Workspace
) -> None:
    run_id = add_run(connection, workspace, kb_status="candidate")
    tune_id = add_tune(connection, workspace)
    trial_id = add_trial(connection, workspace, tune_id, sharpe=1)
    rejected = add_trial(connection, workspace, tune_id, sharpe=1)
    _ingest(connection, workspace)
    content = _trial(connection, run_id, "content_hash")
    _set(connection, "backtest_runs", run_id, "kb_status = 'rejected'")
    _set(connection, "backtest_tune_runs", rejected, "kb_status = 'rejected'")
    assert _ingest(connection, workspace, dry_run=True).notices["archived"] == 2
    assert _sources(connection) == {run_id, trial_id, rejected}, "a dry run archives nothing"
    assert _ingest(connection, workspace).notices["archived"] == 2
    assert _sources(connection) == {trial_id}
    _set(connection, "backtest_tunes", tune_id, "status = 'running'")
    assert _ingest(connection, workspace).notices["archived"] == 1
    assert _ingest(connection, workspace).notices["archived"] == 0
    _set(connection, "backtest_runs", run_id, "kb_status = 'candidate'")
    _set(connection, "backtest_tunes", tune_id, "status = 'completed'")
    report = _ingest(connection, workspace)
    assert (report.updated, report.notices["unchanged"]) == (2, 0), "what comes back is no touch"
    assert _sources(connection) == {run_id, trial_id}
    assert _trial(connection, run_id, "content_hash") == content


def test_a_source_that_was_deleted_is_archived(connection: Connection, workspace: Workspace) -> None:
    run_id = add_run(connection, workspace, kb_status="promoted")
    trial_id = add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1)
    _ingest(connection, workspace)
    for source_id in (run_id, trial_id):
        connection.execute("DELETE FROM backtest_runs WHERE id = %s", [source_id])
    report = _ingest(connection, workspace)
    assert (report.scanned, report.notices["archived"]) == (0, 2)
    assert "Archived: 2" in report.to_text().splitlines()
    assert _sources(connection) == set()


def test_a_run_that_two_tunes_tried_is_one_trial_and_settles(
    connection: Connection, workspace: Workspace
) -> None:
    first, second = (add_tune(connection, workspace) for _ in range(2))
    run_id = add_trial(connection, workspace, first, sharpe=1)
    connection.execute(
        "INSERT INTO backtest_tune_runs (tune_id, run_id, trial_index, params, status, metrics_oos)"
        " SELECT %s, run_id, trial_index, params, status, metrics_oos FROM backtest_tune_runs",
        [second],
    )
    report = _ingest(connection, workspace)
    assert (report.updated, report.skipped) == (1, {"run_of_another_trial": 1})
    assert _trial(connection, run_id, "tune_id") == first
    assert _ingest(connection, workspace).scanned == 0
    _set(connection, "backtest_tunes", first, "status = 'running'")
    assert _ingest(connection, workspace).notices["archived"] == 1
    assert _ingest(connection, workspace).updated == 1
    assert _trial(connection, run_id, "tune_id") == second, "the other tune still has it"


def test_a_limit_goes_on_where_the_last_call_stopped(connection: Connection, workspace: Workspace) -> None:
    tune_id = add_tune(connection, workspace)
    for _ in range(3):
        add_run(connection, workspace, kb_status="candidate")
        add_trial(connection, workspace, tune_id, sharpe=1)
        add_run(connection, workspace, kb_status="candidate", params=TOO_LONG)
    reports = [_ingest(connection, workspace, limit=4) for _ in range(3)]
    assert sum(report.updated for report in reports) == 6
    assert len(_sources(connection)) == 6


def test_other_workspaces_are_left_alone(connection: Connection, workspace: Workspace) -> None:
    other = add_workspace(connection)
    theirs = add_run(connection, other, kb_status="candidate")
    add_trial(connection, other, add_tune(connection, other), sharpe=1)
    _ingest(connection, other)
    _set(connection, "backtest_runs", theirs, "kb_status = 'rejected'")
    report = _ingest(connection, workspace)
    assert (report.scanned, report.notices["archived"]) == (0, 0)
    assert theirs in _sources(connection)


def test_what_is_ingested_is_looked_up_by_its_key_before_a_table_was_analysed(
    connection: Connection, workspace: Workspace
) -> None:
    bounds = {"since": "2000-01-01", "after_created_at": "2000-01-01", "until_created_at": "2100-01-01"}
    ids = {"workspace_id": workspace.id, "after_id": UUID(int=0), "until_id": UUID(int=2**128 - 1)}
    explain = "EXPLAIN " + statement("kb_trials.read_sources_page")
    with connection.working_in(workspace.id):
        found = connection.execute(explain, {**bounds, **ids, "rows": 100})  # type: ignore[arg-type]
        lines = [line.strip() for (line,) in found]
    lookups = [lines[at + 1] for at, line in enumerate(lines) if "on kb_trials" in line]
    assert len(lookups) == 2
    assert all(re.match(r"Index Cond: .*source_id = ", line) for line in lookups), lookups


def test_a_trial_s_source_is_looked_up_by_its_key_before_a_table_was_analysed(
    connection: Connection, workspace: Workspace
) -> None:
    with connection.working_in(workspace.id):
        found = connection.execute(
            "EXPLAIN " + statement("kb_trials.demoted"),  # type: ignore[arg-type]
            {"workspace_id": workspace.id},
        )
        lines = [line.strip() for (line,) in found]
    keys = {
        "backtest_runs": "id = known.source_id",
        "backtest_tune_runs": "tune_id = known_1.tune_id",
        "backtest_tunes": "id = known_1.tune_id",
    }
    for table, key in keys.items():
        (lookup,) = (lines[at + 1] for at, line in enumerate(lines) if f" on {table} " in line)
        assert re.match(rf"Index Cond: .*\b{key}", lookup), (table, lookup)
