"""Measure uplift: does choosing parameters by regime beat not doing so, in this workspace, and how surely?"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import numpy.typing as npt

from kb_pipeline.backfills.uplift_report import UpliftReport
from kb_pipeline.domain.regime_key import RegimeTags, regime_tags_of
from kb_pipeline.domain.uplift import REASONS, Tunes, Uplifts, combined, measure_uplifts
from kb_pipeline.domain.uplift_cells import CellName, UpliftCell, UpliftScope, counts_by_name, sum_up
from kb_pipeline.errors import ConservationError
from kb_pipeline.rules import (
    BOOTSTRAP_DRAWS,
    BOOTSTRAP_SEED,
    INTERVAL_LEVEL,
    REGIME_KEY_SEPARATOR,
    BackfillKind,
)
from kb_pipeline.storage import session
from kb_pipeline.storage.locks import writer_lock
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.regime_uplift import Named, TuneScores, read_tune_scores, replace_uplift

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftRequest:
    """Where to measure: all completed tunes of a workspace take part, as evidence for each other."""

    workspace_id: UUID


def measure_uplift(connection: Connection, request: UpliftRequest, *, dry_run: bool) -> UpliftReport:
    """Measure the uplift of a workspace and put it in the place of what was measured before.

    Raises:
        BadArgumentError: There is no such workspace.
        AlreadyRunningError: Another process is at it (never in a dry run).
        ConservationError: The counts do not add up.
    """
    workspace_id = request.workspace_id
    session.require_workspace(connection, workspace_id)
    # Held from reading to writing, so that older scores never replace newer ones.
    with nullcontext() if dry_run else writer_lock(connection, BackfillKind.UPLIFT, workspace_id):
        report = _measured(read_tune_scores(connection, workspace_id), workspace_id, dry_run)
        if not dry_run:
            replace_uplift(
                connection,
                workspace_id,
                report.cells,
                scanned=report.scanned,
                unknown=report.unknown,
                settings={"draws": BOOTSTRAP_DRAWS, "seed": BOOTSTRAP_SEED, "level": INTERVAL_LEVEL},
            )
    return report


def _measured(scores: TuneScores, workspace_id: UUID, dry_run: bool) -> UpliftReport:
    frames = combined(scores.timeframes.numbers + 1, scores.objectives.numbers + 1)
    tunes = _tunes(scores, frames)
    uplifts = measure_uplifts(tunes, scores.trials)
    report = UpliftReport(
        workspace_id=str(workspace_id),
        dry_run=dry_run,
        scanned=len(frames),
        known=int(np.sum(uplifts.reasons < 0)),
        unknown=counts_by_name(uplifts.reasons, REASONS),
        cells=tuple(_cells(scores, frames, tunes, uplifts)),
    )
    if report.known + sum(report.unknown.values()) != report.scanned:
        raise ConservationError(
            f"{report.scanned} tunes were read but {report.known} have an uplift and "
            f"{sum(report.unknown.values())} a reason for none. This is a fault of the program."
        )
    return report


def _tunes(scores: TuneScores, frames: Integers) -> Tunes:
    tags = [_tags(key) for key in scores.regimes.names]
    declared = [scores.declared.get(strategy_id, -1) for strategy_id in scores.strategies.names]
    return Tunes(
        pools=combined(scores.strategies.numbers, frames),
        regimes=scores.regimes.numbers,
        trends=_of_tunes(scores.regimes, _numbered([tag.trend_tag for tag in tags])),
        volatilities=_of_tunes(scores.regimes, _numbered([tag.vol_tag for tag in tags])),
        declared=_of_tunes(scores.strategies, declared),
    )


def _numbered(tags: Sequence[str | None]) -> list[int]:
    distinct = list(dict.fromkeys(tags))
    return [distinct.index(tag) for tag in tags]


def _tags(regime_key: str) -> RegimeTags:
    return regime_tags_of(regime_key.split(REGIME_KEY_SEPARATOR))


def _of_tunes(column: Named, numbers: Sequence[int]) -> Integers:
    """Return the number that belongs to each tune's name, -1 where it has no name."""
    return np.array([*numbers, -1], dtype=np.int64)[column.numbers]


def _cells(scores: TuneScores, frames: Integers, tunes: Tunes, uplifts: Uplifts) -> Iterator[UpliftCell]:
    """Yield the cells of every scope; a tune that is not attributed stands in its strategy's cell only."""
    groups = {
        UpliftScope.STRATEGY: tunes.pools,
        UpliftScope.REGIME: combined(frames, tunes.regimes),
        UpliftScope.STRATEGY_REGIME: combined(tunes.pools, tunes.regimes),
    }
    for scope, group_of in groups.items():
        for rows in _members(group_of):
            name = _name(scope, scores, int(rows[0]))
            yield sum_up(name, uplifts, rows, scores.symbols.numbers)


def _members(groups: Integers) -> list[Integers]:
    """Return the positions of each group's members, without those of no group."""
    order = np.argsort(groups, kind="stable")
    order = order[np.searchsorted(groups[order], 0) :]
    if not len(order):
        return []
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)


def _name(scope: UpliftScope, scores: TuneScores, row: int) -> CellName:
    strategy_id = None if scope == UpliftScope.REGIME else scores.strategies.name(row)
    regime_key = None if scope == UpliftScope.STRATEGY else scores.regimes.name(row)
    return CellName(
        scope=scope,
        strategy_id=strategy_id,
        strategy_name=scores.strategy_names.get(strategy_id or ""),
        regime_key=regime_key,
        **_tags(regime_key or "")._asdict(),
        timeframe=scores.timeframes.name(row),
        objective=scores.objectives.name(row),
    )
