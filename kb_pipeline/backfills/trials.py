"""Ingest trials: candidates, promoted runs and completed trials of tunes become rows of `kb_trials`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from kb_pipeline.backfills.engine import Decisions, Page, Rows, Watch, run_backfill
from kb_pipeline.backfills.report import BackfillReport, Tally
from kb_pipeline.domain.trials import SOURCE_COLUMNS, trial_of
from kb_pipeline.rules import (
    BATCH_SIZE_ROWS,
    TRIALS_LIMIT_ROWS,
    BackfillKind,
    SkipReason,
)
from kb_pipeline.storage import kb_trials, session
from kb_pipeline.storage.backfill_runs import Span
from kb_pipeline.storage.postgres import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialsRequest:
    """What to ingest. `limit` counts scanned sources (None: all), `batch_size` rows a transaction."""

    workspace_id: UUID
    since: datetime | None = None
    limit: int | None = TRIALS_LIMIT_ROWS
    batch_size: int = BATCH_SIZE_ROWS
    from_start: bool = False


def ingest_trials(
    connection: Connection, request: TrialsRequest, *, dry_run: bool, watch: Watch | None = None
) -> BackfillReport:
    """Bring the trials of a workspace in step with their sources, or count what would change.

    A source in a new version updates its row, one that is gone or demoted has its row archived.

    Raises:
        AlreadyRunningError: Another process is at it.
        ConservationError: The counts do not add up.
        ConflictsRemainError: Other sessions held trials that were to be put away.
    """
    tally = run_backfill(
        connection,
        request,
        _TrialsWork(request),
        dry_run=dry_run,
        watch=watch,
        conclude=lambda tally: _archive_demoted(
            connection, request, tally, watch or Watch(), dry_run=dry_run
        ),
    )
    return BackfillReport.of(
        tally,
        kind=BackfillKind.TRIALS,
        workspace_id=str(request.workspace_id),
        dry_run=dry_run,
        since=request.since,
        limit=request.limit,
    )


def _archive_demoted(
    connection: Connection, request: TrialsRequest, tally: Tally, watch: Watch, *, dry_run: bool
) -> None:
    gone = kb_trials.demoted(connection, request.workspace_id)
    tally.notices["archived"] = len(gone) if dry_run else 0
    for begin in range(0, 0 if dry_run else len(gone), request.batch_size):
        tally.interrupted = watch.stop()
        if tally.interrupted:
            return
        batch = gone[begin : begin + request.batch_size]
        session.done_in_the_end(
            connection,
            partial(kb_trials.archive, connection, request.workspace_id, batch),
            f"{len(batch)} trials whose source is gone or demoted could not be put away",
        )
        tally.notices["archived"] += len(batch)


class _TrialsWork:
    kind = BackfillKind.TRIALS

    def __init__(self, request: TrialsRequest) -> None:
        self._request = request

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"since": self._request.since.isoformat() if self._request.since else None}

    def fetch(self, connection: Connection, span: Span, rows: int) -> Rows:
        return kb_trials.read_sources_page(
            connection,
            self._request.workspace_id,
            since=self._request.since,
            bounds=span.parameters(),
            rows=rows,
        )

    def read(self, connection: Connection, span: Span, rows: int) -> Page:
        return Page.of(span, self.fetch(connection, span, rows))

    def decide(self, page: Page) -> Decisions:
        *columns, known_hashes = page.columns if page.ids else ((),)
        sources = [dict(zip(SOURCE_COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)]
        trials = [_trial_or_none(source) for source in sources]
        first = dict(zip(reversed(page.ids), reversed(range(len(page.ids))), strict=True))
        return Decisions(
            [_objection(trial, first[page.ids[row]] == row) for row, trial in enumerate(trials)],
            notices={
                "without_a_regime": sum(1 for it in trials if it and it["regime_key"] is None),
                "unchanged": sum(map(_is_known, trials, known_hashes)),
            },
            payload=trials,
        )

    def write(self, connection: Connection, page: Page, rows: Sequence[int]) -> set[str]:
        trials = [
            page.payload[row]
            | {
                "source_id": page.ids[row],
                "source_version": page.versions[row],
                "source_created_at": page.created_at[row],
            }
            for row in rows
        ]
        return kb_trials.land_trials(connection, self._request.workspace_id, trials)


def _is_known(trial: Mapping[str, Any] | None, known_hash: str | None) -> bool:
    """Tell whether a trial has the content it was ingested with: only its source was touched."""
    return trial is not None and trial["content_hash"] == known_hash


def _objection(trial: Mapping[str, Any] | None, is_first: bool) -> SkipReason | None:
    """Return why a trial is no row of its own; two tunes may have tried one run, which is one row."""
    if trial is None:
        return SkipReason.UNREADABLE_ROW
    return None if is_first else SkipReason.RUN_OF_ANOTHER_TRIAL


def _trial_or_none(source: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        return trial_of(source)
    except (ValueError, RecursionError):  # parameters with a number of too many digits, or too deep
        return None
