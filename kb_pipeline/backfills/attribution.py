"""The attribution backfill: write to completed tunes the regime they were won in, their score, a baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import numpy as np

from kb_pipeline.backfills.engine import Decisions, Page, Rows, Watch, run_backfill
from kb_pipeline.backfills.report import BackfillReport, Tally
from kb_pipeline.domain.attribution import ParameterScores, RegimeIdentity, regime_identity
from kb_pipeline.rules import ATTRIBUTION_LIMIT_ROWS, BATCH_SIZE_ROWS, BackfillKind, SkipReason
from kb_pipeline.storage import backtest_tunes, session
from kb_pipeline.storage.backfill_runs import Span
from kb_pipeline.storage.postgres import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributionRequest:
    """What to attribute. `limit` counts scanned tunes (None: all), `batch_size` tunes a transaction.

    `part` is for the holder of a lease on those tunes.
    """

    workspace_id: UUID
    since: datetime | None = None
    limit: int | None = ATTRIBUTION_LIMIT_ROWS
    batch_size: int = BATCH_SIZE_ROWS
    from_start: bool = False
    part: Span | None = None


def backfill_attribution(
    connection: Connection, request: AttributionRequest, *, dry_run: bool, watch: Watch | None = None
) -> BackfillReport:
    """Attribute the completed tunes of a workspace that still wait for it, or count them.

    Raises:
        AlreadyRunningError: Another process is at it.
        ConservationError: The counts do not add up.
    """
    work = _AttributionWork(request)
    tally = run_backfill(
        connection,
        request,
        work,
        dry_run=dry_run,
        watch=watch,
        conclude=lambda tally: work.withdraw(connection, tally, watch or Watch(), dry_run=dry_run),
        part=request.part,
    )
    return BackfillReport.of(
        tally,
        kind=BackfillKind.ATTRIBUTION,
        workspace_id=str(request.workspace_id),
        dry_run=dry_run,
        since=request.since,
        limit=request.limit,
    )


class _AttributionWork:
    kind = BackfillKind.ATTRIBUTION

    def __init__(self, request: AttributionRequest) -> None:
        self._request = request
        self._scores: dict[str, ParameterScores] = {}
        self._outlived: dict[str, str] = {}
        """Tunes attributed by an earlier completion that have no regime by this one, and their versions."""

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"since": self._request.since.isoformat() if self._request.since else None}

    def fetch(self, connection: Connection, span: Span, rows: int) -> Rows:
        return backtest_tunes.read_attribution_page(
            connection,
            self._request.workspace_id,
            since=self._request.since,
            bounds=span.parameters(),
            rows=rows,
        )

    def read(self, connection: Connection, span: Span, rows: int) -> Page:
        page = Page.of(span, self.fetch(connection, span, rows))
        new = sorted(set(page.columns[1]) - set(self._scores) if page.ids else ())
        if new:
            self._scores |= backtest_tunes.parameter_scores(connection, self._request.workspace_id, new)
        return page

    def decide(self, page: Page) -> Decisions:
        """Name the regime of each tune's best trial, or why there is none."""
        if not page.ids:
            return Decisions(())
        _, strategy, completed, run_ids, _, _, snapshot_types, versions, tags, _, had, *trials = page.columns
        regimes = [
            _regime(*row) for row in zip(completed, run_ids, snapshot_types, versions, tags, strict=True)
        ]
        outcomes = [
            None
            if isinstance(regime, RegimeIdentity)
            else (regime if isinstance(regime, SkipReason) else SkipReason.INVALID_REGIME)
            for regime in regimes
        ]
        for row, reason in enumerate(outcomes):
            if reason and had[row]:
                self._outlived[page.ids[row]] = page.versions[row]
        return Decisions(
            outcomes,
            payload=(regimes, self._baselines(page.ids, strategy, *trials)),
            describe=lambda row: str(regimes[row]) if outcomes[row] == SkipReason.INVALID_REGIME else "",
        )

    def write(self, connection: Connection, page: Page, rows: Sequence[int]) -> set[str]:
        _, _, _, run_ids, params, sharpes, _, _, _, timeframes, *_ = page.columns
        regimes, baselines = page.payload
        return backtest_tunes.land_attributions(
            connection,
            self._request.workspace_id,
            regimes=[regimes[row] for row in rows],
            columns={
                "ids": [page.ids[row] for row in rows],
                "versions": [page.versions[row] for row in rows],
                "best_scores": [sharpes[row] for row in rows],
                "params": [params[row] for row in rows],
                "run_ids": [run_ids[row] for row in rows],
                "baseline_scores": [baselines[row] for row in rows],
                "timeframes": [timeframes[row] for row in rows],
            },
        )

    def withdraw(self, connection: Connection, tally: Tally, watch: Watch, *, dry_run: bool) -> None:
        """Take back what tunes were attributed by a completion that is not their last, or count them."""
        if dry_run and self._outlived:
            tally.notices["withdrawn"] = len(self._outlived)
        outlived = [] if dry_run else list(self._outlived.items())
        size = self._request.batch_size
        for begin in range(0, len(outlived), size):
            tally.interrupted = watch.stop()
            if tally.interrupted:
                return
            batch = dict(outlived[begin : begin + size])
            tally.notices["withdrawn"] += session.done_in_the_end(
                connection,
                partial(backtest_tunes.withdraw_attributions, connection, self._request.workspace_id, batch),
                f"{len(batch)} tunes that completed again without a regime keep their old one",
            )

    def _baselines(
        self,
        ids: Sequence[str],
        strategy_ids: Sequence[str],
        params_hashes: Sequence[bytes | None],
        sharpes: Sequence[bytes | None],
    ) -> list[float | None]:
        """Return the baseline score of each tune of a page, strategy by strategy, None where unknown."""
        baselines = np.full(len(ids), np.nan)
        hashes = backtest_tunes.tune_hashes(ids)
        rows_of: dict[str, list[int]] = {}
        for row, strategy_id in enumerate(strategy_ids):
            rows_of.setdefault(strategy_id, []).append(row)
        for strategy_id, rows in rows_of.items():
            trials = backtest_tunes.trials_of(
                [params_hashes[row] for row in rows], [sharpes[row] for row in rows]
            )
            baselines[rows] = self._scores[strategy_id].baselines(hashes[rows], *trials)
        return [None if np.isnan(baseline) else baseline for baseline in baselines.tolist()]


def _regime(
    completed: int,
    best_run_id: str | None,
    snapshot_type: str | None,
    schema_version: str | None,
    tags: str | None,
) -> RegimeIdentity | SkipReason | str:
    """Return the regime of a tune's best trial, the reason it has none, or what is wrong with it."""
    if completed == 0:
        return SkipReason.NO_COMPLETED_RUNS
    if best_run_id is None:
        return SkipReason.MISSING_METRICS_OOS
    if snapshot_type is None:
        return SkipReason.MISSING_REGIME_OOS
    if snapshot_type != "object":
        return f"the snapshot is a JSON {snapshot_type}, not an object"
    return regime_identity(schema_version, tags)
