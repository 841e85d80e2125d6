"""The candidacy backfill on a real Postgres: what it writes, what it leaves alone, how it resumes."""

import json
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.engine import Watch
from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.domain.candidacy import CandidacyConfig, VariantMetricsForCandidacy, is_candidate
from kb_pipeline.errors import AlreadyRunningError, BadArgumentError
from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.locks import writer_lock
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.builders import FLAT_SNAPSHOT, GOOD_SUMMARY, add_run, column
from kb_pipeline_tests.conftest import Workspace

STORED = json.loads((Path(__file__).parents[1] / "golden" / "stored_runs.json").read_text(encoding="utf-8"))


def _backfill(
    connection: Connection, workspace: Workspace, *, dry_run: bool = False, **options: Any
) -> BackfillReport:
    request = CandidacyRequest(workspace_id=workspace.id, **options)
    return backfill_candidacy(connection, request, dry_run=dry_run)


def _status(connection: Connection, run_id: UUID) -> str:
    return str(column(connection, "backtest_runs", "kb_status", run_id))


def test_an_eligible_run_becomes_a_candidate_with_an_audit_row(
    connection: Connection, workspace: Workspace
) -> None:
    run_id = add_run(connection, workspace)
    report = _backfill(connection, workspace)
    assert (report.scanned, report.updated, report.skipped) == (1, 1, {})
    row = connection.execute(
        "SELECT kb_status, kb_status_changed_by, auto_candidate_gate, kb_status_changed_at = now_of.at"
        "  FROM backtest_runs, (SELECT max(created_at) AS at FROM kb_status_history) AS now_of WHERE id = %s",
        [run_id],
    ).fetchone()
    assert row == ("candidate", "backfill", "passed_all_gates", True)
    audit = connection.execute(
        "SELECT source_id, source_type, from_status, to_status, actor_type, actor_id FROM kb_status_history"
    ).fetchall()
    assert audit == [(run_id, "test_variant", "excluded", "candidate", "auto", "backfill")]


def test_a_dry_run_counts_the_same_and_writes_nothing(connection: Connection, workspace: Workspace) -> None:
    add_run(connection, workspace)
    add_run(connection, workspace, summary={**GOOD_SUMMARY, "sharpe": 0.0})
    rehearsal = _backfill(connection, workspace, dry_run=True)
    assert connection.execute("SELECT count(*) FROM kb_backfill_runs").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM kb_status_history").fetchone() == (0,)
    report = _backfill(connection, workspace)
    assert (rehearsal.scanned, rehearsal.updated, rehearsal.skipped) == (2, 1, {"sharpe_too_low": 1})
    assert (report.scanned, report.updated, report.skipped) == (2, 1, {"sharpe_too_low": 1})


def test_the_backfill_decides_as_is_candidate_does(connection: Connection, workspace: Workspace) -> None:
    expected: dict[str, str] = {}
    for trades, drawdown, sharpe in product((4, 5), (25.0, -26.0, None), (0.1, 0.05, None)):
        summary = {"trades": trades, "max_drawdown_pct": drawdown, "sharpe": sharpe}
        fraction = None if drawdown is None else abs(drawdown) / 100
        metrics = VariantMetricsForCandidacy(trades, fraction, None, sharpe)
        decision = is_candidate(metrics, None, "sweep", CandidacyConfig(require_regime=False))
        expected[str(add_run(connection, workspace, summary=summary))] = str(decision.reason)
    report = _backfill(connection, workspace)
    found = {row.split()[0]: reason for reason, rows in report.examples.items() for row in rows}
    passed = {run_id for run_id in expected if _status(connection, UUID(run_id)) == "candidate"}
    assert found | dict.fromkeys(passed, "passed_all_gates") == expected
    assert len(set(expected.values())) == 4


def test_after_a_dry_run_the_session_may_write_again(connection: Connection, workspace: Workspace) -> None:
    _backfill(connection, workspace, dry_run=True)
    add_run(connection, workspace)


def test_a_second_run_finds_nothing_to_write(connection: Connection, workspace: Workspace) -> None:
    add_run(connection, workspace)
    _backfill(connection, workspace)
    assert _backfill(connection, workspace).scanned == 0
    assert connection.execute("SELECT count(*) FROM kb_status_history").fetchone() == (1,)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"run_kind": "backtest"}, None),
        ({"status": "failed"}, None),
        ({"kb_status": "rejected"}, None),
        ({"kb_status": "promoted"}, None),
        ({"kb_status_changed_by": "alice"}, "human_decision"),
        ({"summary": None}, "missing_summary"),
        ({"summary": "[]"}, "missing_summary"),
    ],
)
def test_a_run_that_is_not_ours_to_mark_stays_as_it_is(
    connection: Connection, workspace: Workspace, columns: dict[str, Any], reason: str | None
) -> None:
    run_id = add_run(connection, workspace, **columns)
    before = _status(connection, run_id)
    report = _backfill(connection, workspace)
    assert report.skipped == ({reason: 1} if reason else {})
    assert _status(connection, run_id) == before


def test_a_run_without_a_status_counts_as_excluded(connection: Connection, workspace: Workspace) -> None:
    run_id = add_run(connection, workspace, kb_status=None)
    assert _backfill(connection, workspace).updated == 1
    assert _status(connection, run_id) == "candidate"


def test_a_run_the_backfill_once_marked_and_a_reset_undid_is_marked_again(
    connection: Connection, workspace: Workspace
) -> None:
    add_run(connection, workspace, kb_status_changed_by="backfill")
    assert _backfill(connection, workspace).updated == 1


@pytest.mark.parametrize("case", STORED, ids=lambda case: case["title"])
def test_stored_summaries_have_the_golden_outcome(
    connection: Connection, workspace: Workspace, case: dict[str, Any]
) -> None:
    run_id = add_run(connection, workspace, summary=case["summary"])
    good = add_run(connection, workspace)
    report = _backfill(connection, workspace)
    assert _status(connection, good) == "candidate", "the other rows go on"
    if case["outcome"] == "candidate":
        assert (_status(connection, run_id), report.skipped) == ("candidate", {})
    else:
        assert _status(connection, run_id) == "excluded"
        assert report.skipped == {case["outcome"]: 1}
        expected = f"{run_id} {case.get('metric', '')}".rstrip()
        assert report.examples[case["outcome"]] == [expected], "the listing names the metric"


def test_numbers_stored_as_text_are_read_and_counted(connection: Connection, workspace: Workspace) -> None:
    add_run(connection, workspace, summary={**GOOD_SUMMARY, "sharpe": "1.5", "trades": "60"})
    assert _backfill(connection, workspace).notices == {"metrics_read_from_text": 2}


def test_the_report_says_how_many_passed_with_a_metric_absent(
    connection: Connection, workspace: Workspace
) -> None:
    add_run(connection, workspace, summary={"trades": 60})
    report = _backfill(connection, workspace)
    assert (report.updated, report.notices) == (1, {"passed_with_an_absent_metric": 1})


def test_require_metrics_skips_an_absent_metric(connection: Connection, workspace: Workspace) -> None:
    add_run(connection, workspace, summary={"trades": 60})
    assert _backfill(connection, workspace, require_metrics=True).skipped == {"missing_metrics": 1}


@pytest.mark.parametrize("regime", [None, "null"])
def test_require_regime_rejects_a_run_without_one(
    connection: Connection, workspace: Workspace, regime: Any
) -> None:
    add_run(connection, workspace, regime_oos=regime)
    add_run(connection, workspace, regime_oos=FLAT_SNAPSHOT)
    report = _backfill(connection, workspace, require_regime=True)
    assert (report.updated, report.skipped) == (1, {"missing_regime_oos": 1})


def test_the_trade_count_column_comes_before_the_summary(
    connection: Connection, workspace: Workspace
) -> None:
    add_run(connection, workspace, trade_count=2, summary={**GOOD_SUMMARY, "trades": 60})
    add_run(connection, workspace, summary={"sharpe": 1.0, "trades": None, "trade_count": 60})
    assert _backfill(connection, workspace).skipped == {"insufficient_oos_trades": 1}


def test_a_limit_is_a_budget_and_not_a_wall(connection: Connection, workspace: Workspace) -> None:
    """Ten rows that stay ineligible and one that passes behind them: seen in ceil(11 / 4) calls."""
    for _ in range(10):
        add_run(connection, workspace, summary={**GOOD_SUMMARY, "trades": 0})
    last = add_run(connection, workspace)
    assert [_backfill(connection, workspace, limit=4).updated for _ in range(3)] == [0, 0, 1]
    assert _status(connection, last) == "candidate"


def test_at_the_end_the_scan_wraps_around_to_where_it_began(
    connection: Connection, workspace: Workspace
) -> None:
    for _ in range(5):
        add_run(connection, workspace, summary={**GOOD_SUMMARY, "trades": 0})
    assert not _backfill(connection, workspace, limit=5, dry_run=True).limit_reached
    assert _backfill(connection, workspace, limit=4, dry_run=True).limit_reached
    reports = [_backfill(connection, workspace, limit=3) for _ in range(2)]
    assert [report.scanned for report in reports] == [3, 3]
    assert [report.limit_reached for report in reports] == [True, False], "the second call saw the last row"
    assert reports[0].examples["insufficient_oos_trades"][0] in reports[1].examples["insufficient_oos_trades"]


def test_no_row_is_seen_twice_in_one_call(connection: Connection, workspace: Workspace) -> None:
    for _ in range(5):
        add_run(connection, workspace, summary={**GOOD_SUMMARY, "trades": 0})
    _backfill(connection, workspace, limit=3)
    assert _backfill(connection, workspace, limit=100).scanned == 5


def test_a_dry_run_begins_where_the_real_one_would_and_moves_nothing(
    connection: Connection, workspace: Workspace
) -> None:
    for _ in range(6):
        add_run(connection, workspace, summary={**GOOD_SUMMARY, "trades": 0})
    _backfill(connection, workspace, limit=2)
    rehearsals = [_backfill(connection, workspace, limit=2, dry_run=True).examples for _ in range(2)]
    assert rehearsals == [_backfill(connection, workspace, limit=2).examples] * 2


def test_from_start_begins_again_and_other_settings_have_their_own_place(
    connection: Connection, workspace: Workspace
) -> None:
    for _ in range(4):
        add_run(connection, workspace, summary={**GOOD_SUMMARY, "trades": 0})
    first = _backfill(connection, workspace, limit=2).examples
    assert _backfill(connection, workspace, limit=2, from_start=True).examples == first
    assert _backfill(connection, workspace, limit=2, require_metrics=True).examples == first


def test_rows_created_at_the_same_instant_are_each_seen_once(
    connection: Connection, workspace: Workspace
) -> None:
    for _ in range(7):
        add_run(connection, workspace, created_at="2025-06-01T00:00:00Z")
    assert [_backfill(connection, workspace, limit=3).updated for _ in range(3)] == [3, 3, 1]


def test_at_most_a_batch_is_written_in_one_transaction(connection: Connection, workspace: Workspace) -> None:
    for _ in range(7):
        add_run(connection, workspace)
        add_run(connection, workspace, summary=None)
    report = _backfill(connection, workspace, batch_size=3)
    assert (report.scanned, report.updated) == (14, 7)
    rows = connection.execute(
        "SELECT count(*) FROM kb_status_history GROUP BY xmin::text ORDER BY 1"
    ).fetchall()
    assert rows == [(1,), (3,), (3,)]


def test_the_ledger_tells_what_happened(connection: Connection, workspace: Workspace) -> None:
    add_run(connection, workspace)
    add_run(connection, workspace, summary=None)
    _backfill(connection, workspace)
    ledger = connection.execute(
        "SELECT status, dry_run, scanned_count, processed_count, skipped_count, error_count, counts,"
        " completed_at IS NOT NULL FROM kb_backfill_runs"
    ).fetchall()
    assert ledger == [("completed", False, 2, 1, 1, 0, {"missing_summary": 1}, True)]


def test_a_ledger_row_a_dead_process_left_open_is_closed(
    connection: Connection, workspace: Workspace
) -> None:
    connection.execute(
        "INSERT INTO kb_backfill_runs (workspace_id, backfill_type, config_hash, holder)"
        " VALUES (%s, 'candidacy', 'x', 'process 1 on here'), (%s, 'candidacy', 'y', NULL)",
        [workspace.id, workspace.id],
    )
    _backfill(connection, workspace)
    rows = connection.execute(
        "SELECT config_hash, status FROM kb_backfill_runs WHERE config_hash IN ('x', 'y')"
    )
    assert dict(rows.fetchall()) == {"x": "interrupted", "y": "running"}, "the platform's own rows stay"


def test_a_second_writer_is_turned_away_at_once_and_told_who_writes(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    with (
        connect(database_url, application_name="the first") as first,
        writer_lock(first, BackfillKind.CANDIDACY, workspace.id),
    ):
        with pytest.raises(AlreadyRunningError, match="the first"):
            _backfill(connection, workspace)
        assert _backfill(connection, workspace, dry_run=True).scanned == 0, "a dry run only reads"


def test_two_workspaces_are_written_at_once(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    with connect(database_url) as other, writer_lock(other, BackfillKind.CANDIDACY, uuid4()):
        assert _backfill(connection, workspace).exit_code == 0


def test_an_unknown_workspace_is_an_error(connection: Connection) -> None:
    with pytest.raises(BadArgumentError, match="There is no workspace"):
        backfill_candidacy(connection, CandidacyRequest(workspace_id=uuid4()), dry_run=False)


def test_a_stop_request_ends_between_two_batches_and_the_next_run_goes_on(
    connection: Connection, workspace: Workspace
) -> None:
    for _ in range(6):
        add_run(connection, workspace)
    scanned: list[int] = []
    watch = Watch(progress=scanned.append, stop=lambda: "SIGTERM" if len(scanned) == 2 else None)
    request = CandidacyRequest(workspace_id=workspace.id, batch_size=2)
    report = backfill_candidacy(connection, request, dry_run=False, watch=watch)
    assert (report.updated, report.interrupted, report.exit_code) == (4, "SIGTERM", 143)
    assert connection.execute("SELECT status FROM kb_backfill_runs").fetchall() == [("interrupted",)]
    assert _backfill(connection, workspace, batch_size=2).updated == 2


def test_the_cursor_does_not_depend_on_how_the_server_writes_dates(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    for month in range(2, 8):  # 5 February is also 2 May, where the month comes first
        created_at = f"2025-0{month}-05T00:00:00Z"
        add_run(connection, workspace, created_at=created_at, summary={**GOOD_SUMMARY, "trades": 0})
    name = connection.info.dbname
    seen: list[str] = []
    for style in ("SQL, DMY", "ISO, MDY", "German, DMY"):
        connection.execute(f"ALTER DATABASE \"{name}\" SET DateStyle = '{style}'")  # type: ignore[arg-type]
        with connect(database_url) as session:
            seen += _backfill(session, workspace, limit=2).examples["insufficient_oos_trades"]
    assert len(set(seen)) == 6
