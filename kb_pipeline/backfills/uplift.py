"""Measure uplift: does choosing parameters by regime beat not doing so, in this workspace, and how surely?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from kb_pipeline.backfills.announced import announced
from kb_pipeline.domain.regime_key import RegimeTags, regime_tags_of
from kb_pipeline.domain.uplift import REASONS, Tunes, Uplifts, combined, measure_uplifts
from kb_pipeline.domain.uplift_cells import (
    CellName,
    UpliftCell,
    UpliftReport,
    UpliftScope,
    counts_by_name,
    sum_up,
)
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
from kb_pipeline.storage.session import in_its_workspace

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftRequest:
    """Where to measure: all completed tunes of a workspace take part, as evidence for each other."""

    workspace_id: UUID


@in_its_workspace
def measure_uplift(connection: Connection, request: UpliftRequest, *, dry_run: bool) -> UpliftReport:
    """Measure the uplift of a workspace and put it in the place of what was measured before.

    Raises:
        BadArgumentError: There is no such workspace.
        AlreadyRunningError: Another process is at it (never in a dry run).
        ConservationError: The counts do not add up.
    """
    workspace_id = request.workspace_id
    session.require_workspace(connection, workspace_id)
    with announced(BackfillKind.UPLIFT, workspace_id, dry_run=dry_run) as result:
        report = _measured(connection, workspace_id, dry_run=dry_run)
        result |= {"scanned": report.scanned, "known": report.known, "unknown": report.unknown}
    return report


def _measured(connection: Connection, workspace_id: UUID, *, dry_run: bool) -> UpliftReport:
    if dry_run:
        return report_of(read_tune_scores(connection, workspace_id))
    # Held from reading to writing, so that older scores never replace newer ones.
    with writer_lock(connection, BackfillKind.UPLIFT, workspace_id):
        report = report_of(read_tune_scores(connection, workspace_id))
        settings = {"draws": BOOTSTRAP_DRAWS, "seed": BOOTSTRAP_SEED, "level": INTERVAL_LEVEL}
        computed_at = replace_uplift(connection, workspace_id, report, settings)
    return replace(report, computed_at=computed_at)


def report_of(scores: TuneScores) -> UpliftReport:
    """Return the uplift of tunes that were read.

    Raises:
        ConservationError: The counts do not add up.
    """
    frames = combined(scores.timeframes.numbers + 1, scores.objectives.numbers + 1)
    tunes = _tunes(scores, frames)
    uplifts = measure_uplifts(tunes, scores.trials)
    known = int(np.sum(uplifts.reasons < 0))
    unknown = counts_by_name(uplifts.reasons, REASONS)
    if known + sum(unknown.values()) != len(frames):
        raise ConservationError(
            f"{len(frames)} tunes were read but {known} have an uplift and {sum(unknown.values())} a reason "
            "for none. This is a fault of the program; nothing was written."
        )
    cells = sorted(_cells(scores, frames, tunes, uplifts), key=_by_size)
    return UpliftReport(
        computed_at=None, scanned=len(frames), known=known, unknown=unknown, cells=tuple(cells)
    )


def _by_size(cell: UpliftCell) -> tuple[Any, ...]:
    names = (cell.strategy_name, cell.regime_key, cell.timeframe, cell.objective)
    return (cell.scope, -cell.uplift.n, *(name or "" for name in names))


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
