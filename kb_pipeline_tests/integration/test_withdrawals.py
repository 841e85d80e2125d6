"""An attribution is withdrawn where a tune has none by the completion that is its last."""

import json
from typing import Any
from uuid import UUID

import pytest

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.storage.orchestration import due_tunes
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.builders import FLAT_KEY, FLAT_SNAPSHOT, add_trial, add_tune, column
from kb_pipeline_tests.conftest import Workspace

ATTRIBUTED = (
    *("regime_schema_version", "tag_ruleset_id", "regime_key", "regime_fingerprint", "trend_tag", "vol_tag"),
    *("efficiency_tag", "best_oos_score", "best_oos_params", "best_oos_run_id", "baseline_oos_score"),
    *("timeframe", "attributed_completed_at"),
)


def _backfill(connection: Connection, workspace: Workspace, *, dry_run: bool = False) -> BackfillReport:
    return backfill_attribution(connection, AttributionRequest(workspace_id=workspace.id), dry_run=dry_run)


def _attributed(connection: Connection, tune_id: UUID) -> dict[str, Any]:
    return {name: column(connection, "backtest_tunes", name, tune_id) for name in ATTRIBUTED}


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_tune_that_completes_again_without_a_regime_gives_its_old_one_up(
    connection: Connection, workspace: Workspace, dry_run: bool
) -> None:
    tune_id, other = add_tune(connection, workspace), add_tune(connection, workspace)
    for it in (tune_id, other):
        add_trial(connection, workspace, it, sharpe=1)
    assert _backfill(connection, workspace).updated == 2
    run_id = add_trial(connection, workspace, tune_id, sharpe=2, regime=None)
    connection.execute(
        "UPDATE backtest_tunes SET completed_at = completed_at + interval '1 day' WHERE id = %s", [tune_id]
    )
    before = _attributed(connection, tune_id)
    assert [it.tunes for it in due_tunes(connection)] == [1], "the sensor sees that there is something to do"
    report = _backfill(connection, workspace, dry_run=dry_run)
    assert (report.updated, report.skipped) == (0, {"missing_regime_oos": 1})
    assert report.to_text().splitlines()[-1] == "Withdrawn: 1"
    if dry_run:
        assert _attributed(connection, tune_id) == before
        return
    assert set(_attributed(connection, tune_id).values()) == {None}
    assert _attributed(connection, other)["regime_key"] == FLAT_KEY
    noted = connection.execute("SELECT ids FROM kb_regime_changes ORDER BY id DESC LIMIT 1").fetchone()
    assert noted == ([tune_id],), "who measures distances forgets it"
    assert due_tunes(connection) == []
    assert _backfill(connection, workspace).notices == {}
    connection.execute(
        "UPDATE backtest_runs SET regime_oos = %s WHERE id = %s", [json.dumps(FLAT_SNAPSHOT), run_id]
    )
    assert _backfill(connection, workspace).updated == 1
    assert _attributed(connection, tune_id)["best_oos_score"] == 2
