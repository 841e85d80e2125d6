"""The check that asks whether markets have left the regimes parameters were chosen in, and its schedule.

What is found is kept and told by the same function that the command line calls.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import dagster as dg

from kb_pipeline.errors import KbPipelineError
from kb_pipeline.orchestration.assets import DatabaseParam, PricesParam, tune_regime_attribution
from kb_pipeline.orchestration.checks import is_looked_at
from kb_pipeline.orchestration.metadata import table
from kb_pipeline.orchestration.settings import WorkspaceSettings
from kb_pipeline.plain_text import markdown_text
from kb_pipeline.questions.drift import DriftRequest, evaluate_drift
from kb_pipeline.questions.drift_report import DriftEvaluation, DriftReport, short_key
from kb_pipeline.storage.orchestration import active_workspaces, find_workspace

MAX_TOLD_ALARMS: Final = 20
"""Sentences in the description of one check; the tables beside it go further."""


@dg.asset_check(asset=tune_regime_attribution)
def regime_drift(
    context: dg.AssetCheckExecutionContext,
    config: WorkspaceSettings,
    database: DatabaseParam,
    prices: PricesParam,
) -> dg.AssetCheckResult:
    """The newest bars are still like the regimes each strategy's parameters were chosen in."""
    reports: dict[str, DriftReport] = {}
    errors: dict[str, str] = {}
    chosen = is_looked_at(context)
    with database.session("drift", context.run.run_id) as connection:
        named = [find_workspace(connection, name) for name in config.workspaces]
        for workspace in named or [it for it in active_workspaces(connection) if chosen(it.slug)]:
            request = DriftRequest(workspace_id=workspace.id, data_root=prices.root)
            try:
                reports[workspace.slug] = evaluate_drift(connection, request, dry_run=False)
            except KbPipelineError as error:
                errors[workspace.slug] = str(error)
    return check_result(reports, errors)


def check_result(reports: Mapping[str, DriftReport], errors: Mapping[str, str]) -> dg.AssetCheckResult:
    """Return the verdicts of workspaces, by slug, with the features that moved."""
    found = [(slug, it) for slug, report in reports.items() for it in report.evaluations]
    alarms = [(slug, it) for slug, it in found if it.verdict.is_alarm]
    metadata: dict[str, Any] = {
        "evaluated": len(found),
        "alarms": len(alarms),
        "new_events": sum(it.is_new_event for _, it in found),
        "verdicts": table(_counts(found)),
        "evaluations": table(_row(slug, it) for slug, it in found),
        "moved": table(_moved(alarms)),
        "skipped": table(_skipped(reports)),
        "told": sum(len(report.told) for report in reports.values()),
    }
    untold = [it for report in reports.values() for it in report.untold]
    if untold:
        metadata["not_told"] = dg.MetadataValue.md(
            "\n".join(f"- {markdown_text(it)}" for it in untold[:MAX_TOLD_ALARMS])
        )
    if errors:
        metadata["could_not_start"] = table({"workspace": slug, "why": why} for slug, why in errors.items())
    sentences = [it.sentence for _, it in alarms[:MAX_TOLD_ALARMS]]
    return dg.AssetCheckResult(
        passed=not alarms and not errors,
        severity=dg.AssetCheckSeverity.WARN,
        description="\n".join(sentences) or f"{len(found)} series looked at, no alarm.",
        metadata=metadata,
    )


_Found = Sequence[tuple[str, DriftEvaluation]]
_Rows = list[dict[str, str | int | float | None]]


def _counts(found: _Found) -> _Rows:
    counts = Counter(str(it.verdict.reason) for _, it in found)
    return [{"verdict": reason, "series": series} for reason, series in counts.most_common()]


def _row(slug: str, evaluation: DriftEvaluation) -> dict[str, str | int | float | None]:
    verdict = evaluation.verdict
    return {
        **_named(slug, evaluation),
        "newest_bar": evaluation.newest_bar.isoformat(),
        "verdict": str(verdict.reason),
        "regime": short_key(verdict.key_now),
        "distance": _text(verdict.distance),
        "limit": _text(verdict.limit),
        "percentile": _text(verdict.null_percentile),
    }


def _named(slug: str, evaluation: DriftEvaluation) -> dict[str, str]:
    return {
        "workspace": slug,
        "strategy": evaluation.strategy,
        "symbol": evaluation.symbol,
        "bars": evaluation.timeframe,
    }


def _text(value: float | None) -> str:
    # A table's column has one type, and what is unknown is no number.
    return "unknown" if value is None else f"{value:.2f}"


def _moved(alarms: _Found) -> _Rows:
    return [
        {
            **_named(slug, evaluation),
            "feature": moved.feature,
            "then": moved.then,
            "now": moved.now,
            "deviations": round(moved.size, 2),
        }
        for slug, evaluation in alarms
        for moved in evaluation.verdict.moved
    ]


def _skipped(reports: Mapping[str, DriftReport]) -> _Rows:
    return [
        {
            "workspace": slug,
            "strategy": it.strategy,
            "symbol": it.symbol or "?",
            "bars": it.timeframe or "?",
            "reason": str(it.reason),
            "why": it.detail,
        }
        for slug, report in reports.items()
        for it in report.skipped
    ]


check_regime_drift = dg.define_asset_job(
    "check_regime_drift",
    dg.AssetSelection.checks(regime_drift),
    description="Compare the newest bars with the regimes that parameters were chosen in.",
)

daily_drift = dg.ScheduleDefinition(
    name="daily_drift",
    job=check_regime_drift,
    cron_schedule=os.environ.get("KB_DRIFT_CRON", "").strip() or "0 6 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Look for drift once a day, at 06:00 UTC; KB_DRIFT_CRON says another time, in UTC.",
)
