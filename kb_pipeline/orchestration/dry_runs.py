"""Dry runs as check results: what a backfill would do, per workspace, counted by the backfill itself.

Nothing is written: Postgres holds the session read-only. An unreadable price file is part of the
answer, not the end of it.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import dagster as dg

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.regime import backfill_regime
from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.errors import KbPipelineError
from kb_pipeline.orchestration.metadata import reason_table, table
from kb_pipeline.orchestration.resources import Prices
from kb_pipeline.orchestration.settings import CandidacyDryRunSettings, RegimeDryRunSettings, ScanSettings
from kb_pipeline.orchestration.steps import chosen_workspaces, regime_request
from kb_pipeline.plain_text import markdown_block
from kb_pipeline.storage.orchestration import Workspace, active_workspaces, waiting_symbols
from kb_pipeline.storage.postgres import Connection

Target = TypeVar("Target")

MAX_REPORTS_SHOWN = 20
"""Report texts in one check result; the tables beside them are complete."""


class Rehearsal(NamedTuple):
    """What one backfill would do, or why it could not."""

    target: str
    report: BackfillReport | None
    error: str = ""


def rehearse_regimes(connection: Connection, config: RegimeDryRunSettings, prices: Prices) -> list[Rehearsal]:
    """Rehearse the regime backfill for each workspace and symbol whose runs wait for a regime."""
    targets = [
        (workspace, symbol)
        for workspace in _workspaces(connection, config)
        for symbol in _symbols(connection, config, workspace)
    ]

    of_this_run = prices.of_one_run()

    def rehearse(target: tuple[Workspace, str]) -> BackfillReport:
        request = regime_request(of_this_run, *target, config, config.scan())
        return backfill_regime(connection, request, dry_run=True)

    return [
        _rehearsal(f"{symbol} in {workspace.slug}", rehearse, (workspace, symbol))
        for workspace, symbol in targets
    ]


def rehearse_candidacy(connection: Connection, config: CandidacyDryRunSettings) -> list[Rehearsal]:
    """Rehearse the candidacy backfill for each workspace."""

    def rehearse(workspace: Workspace) -> BackfillReport:
        request = CandidacyRequest(workspace_id=workspace.id, **config.gate(), **config.scan())
        return backfill_candidacy(connection, request, dry_run=True)

    return [_rehearsal(it.slug, rehearse, it) for it in _workspaces(connection, config)]


def rehearse_attribution(connection: Connection, config: ScanSettings) -> list[Rehearsal]:
    """Rehearse the attribution backfill for each workspace."""

    def rehearse(workspace: Workspace) -> BackfillReport:
        request = AttributionRequest(workspace_id=workspace.id, **config.scan())
        return backfill_attribution(connection, request, dry_run=True)

    return [_rehearsal(it.slug, rehearse, it) for it in _workspaces(connection, config)]


def _workspaces(connection: Connection, config: ScanSettings) -> list[Workspace]:
    return chosen_workspaces(connection, config) if config.workspaces else active_workspaces(connection)


def _symbols(connection: Connection, config: RegimeDryRunSettings, workspace: Workspace) -> list[str]:
    return [symbol.upper() for symbol in config.symbols] or sorted(waiting_symbols(connection, workspace.id))


def _rehearsal(target: str, rehearse: Callable[[Target], BackfillReport], of: Target) -> Rehearsal:
    try:
        return Rehearsal(target, rehearse(of))
    except KbPipelineError as error:
        return Rehearsal(target, None, str(error))


def check_result(rehearsals: Iterable[Rehearsal]) -> dg.AssetCheckResult:
    """Return the numbers, tables and texts of a dry run; it passes unless a backfill could not start."""
    told = list(rehearsals)
    reports = [(it.target, it.report) for it in told if it.report is not None]
    errors = [it for it in told if it.report is None]
    would_update = sum(report.updated for _, report in reports)
    skipped = sum((Counter(report.skipped) for _, report in reports), Counter[str]())
    scanned = sum(report.scanned for _, report in reports)
    texts = "\n\n".join(report.to_text() for _, report in reports[:MAX_REPORTS_SHOWN])
    metadata: dict[str, Any] = {
        "scanned": scanned,
        "would_update": would_update,
        "skipped": skipped.total(),
        "targets": _target_table(reports),
        "reasons": reason_table(dict(reports)),
        "report": dg.MetadataValue.md(markdown_block(texts)),
    }
    if errors:
        metadata["could_not_start"] = table({"target": it.target, "why": it.error} for it in errors)
    return dg.AssetCheckResult(
        passed=not errors,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Would write {would_update} of {scanned} rows; nothing was written.",
        metadata=metadata,
    )


def _target_table(reports: list[tuple[str, BackfillReport]]) -> dg.TableMetadataValue:
    return table(
        {
            "target": target,
            "scanned": report.scanned,
            "would_update": report.updated,
            "skipped": sum(report.skipped.values()),
        }
        for target, report in reports
    )
