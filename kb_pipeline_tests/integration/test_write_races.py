"""Every guarded write beside another session, step by step: what changed meanwhile is never overwritten."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.invariants import breaches
from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime
from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.storage import backtest_runs, backtest_tunes
from kb_pipeline.storage.orchestration import due_tunes
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.builders import add_run, add_trial, add_tune, write_daily_bars
from kb_pipeline_tests.conftest import Workspace
from kb_pipeline_tests.integration.schedules import Schedule, statements

SPRING = {"symbol": "BTC", "oos_start": "2020-03-01", "oos_end": "2020-06-30"}


@dataclass(frozen=True)
class Write:
    """A backfill's write: where it stands, what it acts on, and what another session does to that row."""

    module: ModuleType
    read: str
    write: str
    table: str
    written: str
    touched: str
    taken: str
    kept: str
    back: str


WRITES = {
    "candidacy": Write(
        module=backtest_runs,
        read="read_candidacy_page",
        write="mark_candidates",
        table="backtest_runs",
        written="kb_status = 'candidate' AND kb_status_changed_by = 'backfill'",
        touched="engine = 'hers'",
        taken="kb_status = 'rejected', kb_status_changed_by = 'alice'",
        kept="kb_status = 'rejected' AND kb_status_changed_by = 'alice'",
        back="kb_status = 'excluded', kb_status_changed_by = 'alice'",
    ),
    "regime": Write(
        module=backtest_runs,
        read="read_regime_page",
        write="land_regimes",
        table="backtest_runs",
        written="regime_oos ->> 'computation_source' = 'backfill'",
        touched="engine = 'hers'",
        taken="regime_oos = '{\"hers\": true}'",
        kept="regime_oos = '{\"hers\": true}'",
        back="regime_oos = NULL, status = 'failed'",
    ),
    "attribution": Write(
        module=backtest_tunes,
        read="read_attribution_page",
        write="land_attributions",
        table="backtest_tunes",
        written="regime_key IS NOT NULL AND attributed_completed_at = completed_at",
        touched="error = 'hers'",
        taken="status = 'running'",
        kept="status = 'running'",
        back="status = 'failed'",
    ),
}


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    return write_daily_bars(tmp_path / "BTC_1d.csv")


def _rows(connection: Connection, workspace: Workspace, kind: str) -> list[UUID]:
    """Insert two rows that the backfill writes."""
    if kind != "attribution":
        return [add_run(connection, workspace, dataset_meta=SPRING) for _ in range(2)]
    tunes = [add_tune(connection, workspace) for _ in range(2)]
    for tune_id in tunes:
        add_trial(connection, workspace, tune_id, sharpe=1.0)
    return tunes


def _run(connection: Connection, workspace: Workspace, kind: str, prices: Path) -> BackfillReport:
    of: dict[str, Any] = {"workspace_id": workspace.id}
    if kind == "candidacy":
        return backfill_candidacy(connection, CandidacyRequest(**of), dry_run=False)
    if kind == "regime":
        request = RegimeRequest(ohlcv_file=prices, calendar="24/7", **of)
        return backfill_regime(connection, request, dry_run=False)
    return backfill_attribution(connection, AttributionRequest(**of), dry_run=False)


# When the other session acts, what it does, and what becomes of the row: "written" by us and nothing
# lost, "left" to the other one, "gone", or "overruled" by the other one after we had written it.
SCHEDULES = [
    ("before_read", "touched", "written"),
    ("before_read", "taken", "left"),
    ("before_write", "touched", "written"),
    ("before_write", "taken", "left"),
    ("before_write", "taken and back", "left"),
    ("before_write", "deleted", "gone"),
    ("while_writing", "touched", "written"),
    ("while_writing", "taken", "left"),
    ("while_writing", "taken and back", "left"),
    ("while_writing", "deleted", "gone"),
    ("while_writing", "taken but rolled back", "written"),
    ("after_write", "touched", "written"),
    ("after_write", "taken", "overruled"),
    ("after_write", "deleted", "gone afterwards"),
]


def _act(write: Write, what: str, row_id: UUID) -> Any:
    update = f"UPDATE {write.table} SET {{}} WHERE id = %(id)s"
    texts = {
        "touched": [update.format(write.touched)],
        "taken": [update.format(write.taken)],
        "taken and back": [update.format(write.taken), update.format(write.back)],
        "deleted": [f"DELETE FROM {write.table} WHERE id = %(id)s"],
    }
    return statements(*texts[what.removesuffix(" but rolled back")], id=row_id)


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize(("when", "what", "becomes"), SCHEDULES)
def test_a_write_beside_another_session(
    connection: Connection,
    workspace: Workspace,
    database_url: str,
    prices: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    when: str,
    what: str,
    becomes: str,
) -> None:
    write = WRITES[kind]
    theirs, ours = _rows(connection, workspace, kind)
    schedule = Schedule(database_url, **{when: _act(write, what, theirs)}, rolls_back="rolled back" in what)
    reading, writing = schedule.around(getattr(write.module, write.read), getattr(write.module, write.write))
    monkeypatch.setattr(write.module, write.read, reading)
    monkeypatch.setattr(write.module, write.write, writing)
    report = _run(connection, workspace, kind, prices)
    schedule.end()

    def holds(row_id: UUID, condition: str) -> bool | None:
        query = f"SELECT coalesce({condition}, false) FROM {write.table} WHERE id = %s"
        row = connection.execute(query, [row_id]).fetchone()  # type: ignore[call-overload]
        return None if row is None else row[0]

    assert holds(ours, write.written), "the other row of the batch is written in any case"
    updated = {"written": 2, "overruled": 2, "gone afterwards": 2, "left": 1, "gone": 1}
    assert (report.updated, report.conflicts, report.exit_code) == (updated[becomes], 0, 0)
    is_written, is_kept = holds(theirs, write.written), holds(theirs, write.kept)
    if becomes == "written":
        assert is_written
        assert "rolled back" in what or holds(theirs, write.touched)
    elif becomes.startswith("gone"):
        assert is_written is None
    elif what == "taken and back":
        assert not is_written
    else:
        assert is_kept
        assert not is_written or kind == "attribution"
    assert breaches(connection, workspace.id, batch_rows=2) == {}


@pytest.mark.parametrize("when", ["before_write", "while_writing"])
def test_a_tune_that_completes_again_meanwhile_gets_what_it_completed_with(
    connection: Connection, workspace: Workspace, database_url: str, monkeypatch: Any, when: str
) -> None:
    tune_id, _ = _rows(connection, workspace, "attribution")
    again = statements(
        "UPDATE backtest_tune_runs SET metrics_oos = metrics_oos || '{\"sharpe\": 9}' WHERE tune_id = %(id)s",
        "UPDATE backtest_tunes SET completed_at = completed_at + interval '1 day' WHERE id = %(id)s",
        id=tune_id,
    )
    schedule = Schedule(database_url, **{when: again})
    _, writing = schedule.around(None, backtest_tunes.land_attributions)
    monkeypatch.setattr(backtest_tunes, "land_attributions", writing)
    request = AttributionRequest(workspace_id=workspace.id)
    assert backfill_attribution(connection, request, dry_run=False).updated == 2
    schedule.end()
    assert connection.execute(
        "SELECT best_oos_score, attributed_completed_at = completed_at FROM backtest_tunes WHERE id = %s",
        [tune_id],
    ).fetchone() == (9, True)
    assert breaches(connection, workspace.id) == {}


def test_a_tune_that_commits_after_a_later_one_was_attributed_is_still_due(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    late, early = _rows(connection, workspace, "attribution")
    complete = (
        "UPDATE backtest_tunes SET status = 'completed', completed_at = clock_timestamp() WHERE id = %s"
    )
    connection.execute("UPDATE backtest_tunes SET status = 'running', completed_at = NULL")
    with connect(database_url) as other, other.transaction():
        other.execute(complete, [late])
        connection.execute(complete, [early])
        request = AttributionRequest(workspace_id=workspace.id)
        assert backfill_attribution(connection, request, dry_run=False).updated == 1
        assert due_tunes(connection) == []
    assert [(it.slug, it.tunes) for it in due_tunes(connection)] == [("quant", 1)]
    assert backfill_attribution(connection, request, dry_run=False).updated == 1
