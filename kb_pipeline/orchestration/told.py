"""Tell Dagster of backfills that were run without it: `python -m kb_pipeline.orchestration.told`.

Reads their reports from standard input, one JSON object a line, and records each as its partition's
materialization, which belongs to no run. `kb-pipeline demo` ends with it, so that the page shows what it did.
"""

import json
import sys
from collections.abc import Iterable
from typing import Final

import dagster as dg

from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.errors import KbPipelineError
from kb_pipeline.orchestration.instance import prepare_environment
from kb_pipeline.orchestration.metadata import report_metadata
from kb_pipeline.orchestration.partitions import pair_key
from kb_pipeline.orchestration.resources import Database, Prices, sync_partitions
from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.orchestration import Workspace, find_workspace

_ASSETS: Final = {
    BackfillKind.REGIME: "regime_snapshots",
    BackfillKind.CANDIDACY: "candidacy_decisions",
    BackfillKind.ATTRIBUTION: "tune_regime_attribution",
    BackfillKind.TRIALS: "kb_trials",
}


def tell(instance: dg.DagsterInstance, database: Database, reports: Iterable[BackfillReport]) -> None:
    """Record reports of real backfills."""
    with database.session("told") as connection:
        for report in reports:
            workspace = find_workspace(connection, report.workspace_id)
            instance.report_runless_asset_event(_materialization(workspace, report))


def _materialization(workspace: Workspace, report: BackfillReport) -> dg.AssetMaterialization:
    """Return what a run of Dagster would have recorded, pictures aside."""
    return dg.AssetMaterialization(
        _ASSETS[report.kind],
        partition=pair_key(workspace.slug, report.ohlcv.symbol) if report.ohlcv else workspace.slug,
        metadata=report_metadata(workspace, report),
    )


def main() -> int:
    """Record the reports and return the process's exit code."""
    reports = [BackfillReport.from_dict(json.loads(line)) for line in sys.stdin]
    try:
        prepare_environment()
        database = Database()
        with dg.DagsterInstance.get() as instance:
            sync_partitions(instance, database, Prices(), remove=False)
            tell(instance, database, reports)
    except KbPipelineError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
