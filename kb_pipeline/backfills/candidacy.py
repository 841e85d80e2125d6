"""The candidacy backfill: put excluded runs through the quality gate and mark those that pass."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np

from kb_pipeline.backfills.engine import Decisions, Page, Rows, Watch, run_backfill
from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.domain.candidacy import (
    PASSED,
    VERDICTS,
    CandidacyConfig,
    StoredMetrics,
    absent_as_zero,
    gate_verdicts,
    read_metrics,
    stored_experiment_types,
)
from kb_pipeline.rules import (
    BATCH_SIZE_ROWS,
    CANDIDACY_LIMIT_ROWS,
    BackfillKind,
    ExperimentType,
    SkipReason,
)
from kb_pipeline.storage import backtest_runs
from kb_pipeline.storage.backfill_runs import Span
from kb_pipeline.storage.postgres import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidacyRequest:
    """What to backfill and how strictly.

    `experiment_type` is that of runs whose summary names none. `limit` counts scanned runs (None:
    all), `batch_size` the runs marked in one transaction, `part` is for the holder of a lease on those runs.
    """

    workspace_id: UUID
    since: datetime | None = None
    limit: int | None = CANDIDACY_LIMIT_ROWS
    experiment_type: ExperimentType = ExperimentType.SWEEP
    require_regime: bool = False
    require_metrics: bool = False
    batch_size: int = BATCH_SIZE_ROWS
    from_start: bool = False
    part: Span | None = None


def backfill_candidacy(
    connection: Connection, request: CandidacyRequest, *, dry_run: bool, watch: Watch | None = None
) -> BackfillReport:
    """Mark the eligible runs of a workspace as candidates, or count what would be marked.

    Raises:
        AlreadyRunningError: Another process is at it.
        ConservationError: The counts do not add up.
    """
    tally = run_backfill(
        connection, request, _CandidacyWork(request), dry_run=dry_run, watch=watch, part=request.part
    )
    return BackfillReport.of(
        tally,
        kind=BackfillKind.CANDIDACY,
        workspace_id=str(request.workspace_id),
        dry_run=dry_run,
        since=request.since,
        limit=request.limit,
    )


class _CandidacyWork:
    kind = BackfillKind.CANDIDACY

    def __init__(self, request: CandidacyRequest) -> None:
        self._request = request
        self._config = CandidacyConfig(require_regime=request.require_regime)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "since": self._request.since.isoformat() if self._request.since else None,
            "experiment_type": self._request.experiment_type,
            "require_regime": self._request.require_regime,
            "require_metrics": self._request.require_metrics,
        }

    def fetch(self, connection: Connection, span: Span, rows: int) -> Rows:
        return backtest_runs.read_candidacy_page(
            connection,
            self._request.workspace_id,
            since=self._request.since,
            bounds=span.parameters(),
            rows=rows,
        )

    def read(self, connection: Connection, span: Span, rows: int) -> Page:
        return Page.of(span, self.fetch(connection, span, rows))

    def decide(self, page: Page) -> Decisions:
        if not page.ids:
            return Decisions(())
        by_person, summary_kinds, trades, drawdowns, sharpes, experiment_types, has_regime = page.columns
        metrics = read_metrics(trades, drawdowns, sharpes)
        verdicts = gate_verdicts(
            experiment_types=stored_experiment_types(experiment_types, self._request.experiment_type),
            has_regime=np.array(has_regime),
            trades=absent_as_zero(metrics.trades),
            drawdown_fractions=absent_as_zero(metrics.drawdown_fractions),
            overfit_gaps=np.full(len(page.ids), np.nan),
            sharpes=metrics.sharpes,
            config=self._config,
        )
        outcomes: list[str | None] = [_OUTCOMES[verdict] for verdict in verdicts.tolist()]
        absent = _absent_metrics(metrics)
        if self._request.require_metrics:
            _overrule(outcomes, np.flatnonzero(absent).tolist(), SkipReason.MISSING_METRICS)
        _overrule(outcomes, list(metrics.invalid), SkipReason.INVALID_METRIC)
        no_summary = [row for row, kind in enumerate(summary_kinds) if kind != "object"]
        _overrule(outcomes, no_summary, SkipReason.MISSING_SUMMARY)
        _overrule(
            outcomes, [row for row, is_theirs in enumerate(by_person) if is_theirs], SkipReason.HUMAN_DECISION
        )
        return Decisions(
            outcomes, _notices(outcomes, metrics, absent), describe=lambda row: metrics.invalid.get(row, "")
        )

    def write(self, connection: Connection, page: Page, rows: Sequence[int]) -> set[str]:
        ids = [page.ids[row] for row in rows]
        versions = [page.versions[row] for row in rows]
        return backtest_runs.mark_candidates(connection, self._request.workspace_id, ids, versions)


def decide_rows(
    request: CandidacyRequest, gate_columns: Sequence[tuple[Any, ...]]
) -> list[tuple[str | None, str]]:
    """Return the outcome (None: eligible) and detail of runs given by the gate's columns of a page."""
    page = Page.of(Span(), [("", "", "", *columns) for columns in gate_columns])
    decisions = _CandidacyWork(request).decide(page)
    return [(outcome, decisions.describe(row)) for row, outcome in enumerate(decisions.outcomes)]


_OUTCOMES = tuple(None if position == PASSED else str(reason) for position, reason in enumerate(VERDICTS))


def _overrule(outcomes: list[str | None], rows: Sequence[int], reason: SkipReason) -> None:
    for row in rows:
        outcomes[row] = reason


def _absent_metrics(metrics: StoredMetrics) -> Any:
    return np.isnan(metrics.trades) | np.isnan(metrics.drawdown_fractions) | np.isnan(metrics.sharpes)


def _notices(outcomes: Sequence[str | None], metrics: StoredMetrics, absent: Any) -> Counter[str]:
    """Return the extra counts of the report."""
    passed_with_one_absent = sum(outcomes[row] is None for row in np.flatnonzero(absent).tolist())
    return +Counter(
        {"metrics_read_from_text": metrics.coerced, "passed_with_an_absent_metric": passed_with_one_absent}
    )
