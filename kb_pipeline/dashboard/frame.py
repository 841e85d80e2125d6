"""Everything the dashboard draws, read once, and what follows from it: gaps, weeks, the grid of markets.

Reading is in `storage`; how it looks is the work of `tables`, `charts` and `page`.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from kb_pipeline.domain.regime_key import RegimeTags, regime_tags_of
from kb_pipeline.domain.uplift_cells import UpliftReport
from kb_pipeline.rules import MIN_SAMPLES, REGIME_KEY_SEPARATOR
from kb_pipeline.storage import dashboard as storage
from kb_pipeline.storage.dashboard import SampleGap, SamplePair, Sighting, TuneGroup, WorkspaceState
from kb_pipeline.storage.drift_events import DriftEvent, read_events
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.recommend_events import tier_usage
from kb_pipeline.storage.regime_uplift import one_moment, read_uplift
from kb_pipeline.storage.session import in_its_workspace, require_workspace

DRAWN_PAIRS: Final = 120
"""Tunes in the picture of scores in sample against out of sample; more of them hide each other."""

DRAWN_WEEKS: Final = 26
_KNOWN_WINDOWS, _NAMED_WINDOWS = 50, 2


class Scoring(NamedTuple):
    """What scores must share to be compared across strategies: the length of the bars and the objective."""

    timeframe: str
    objective: str


class GridCell(NamedTuple):
    """Tunes of one trend and volatility: how many, how many with a score, their mean best score."""

    tunes: int
    scored: int
    mean_score: float | None


Grid = dict[tuple[str | None, str | None], GridCell]
"""Cells by (trend tag, volatility tag), None for no tag."""


class CoverageGap(NamedTuple):
    """A regime with too few scored tunes of a strategy, and windows of it in which that was never tuned.

    `asked` counts the recommendations asked for it.
    """

    strategy: str
    scoring: Scoring
    regime_key: str
    scored: int
    missing: int
    asked: int
    untried: tuple[Sighting, ...]


class TierWeek(NamedTuple):
    """Recommendations of one week by the tier that answered; the week begins on this Monday (UTC)."""

    monday: date
    calls: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A workspace's attribution at one moment; empty where there is nothing yet, None where unmeasured."""

    workspace_id: UUID
    state: WorkspaceState
    uplift: UpliftReport | None
    groups: tuple[TuneGroup, ...]
    gaps: tuple[CoverageGap, ...]
    weeks: tuple[TierWeek, ...]
    drift: tuple[DriftEvent, ...]
    sample_gaps: tuple[SampleGap, ...]
    sample_pairs: tuple[SamplePair, ...]

    @property
    def grids(self) -> dict[Scoring, Grid]:
        """The grid of markets of each scoring, those of most tunes first."""
        return market_grids(self.groups)


@in_its_workspace
def read_frame(connection: Connection, workspace_id: UUID) -> Frame:
    """Return what the dashboard of a workspace shows, all of one moment; Postgres refuses any write.

    Raises:
        BadArgumentError: There is no such workspace.
    """
    require_workspace(connection, workspace_id)
    with one_moment(connection):
        groups = storage.tune_groups(connection, workspace_id)
        sightings = storage.sightings(connection, workspace_id, _KNOWN_WINDOWS)
        asked = storage.asked_regimes(connection, workspace_id)
        return Frame(
            workspace_id=workspace_id,
            state=storage.workspace_state(connection, workspace_id),
            uplift=read_uplift(connection, workspace_id),
            groups=tuple(groups),
            gaps=tuple(coverage_gaps(groups, sightings, asked)),
            weeks=tuple(tier_weeks(tier_usage(connection, workspace_id))),
            drift=tuple(read_events(connection, workspace_id)),
            sample_gaps=tuple(storage.sample_gaps(connection, workspace_id)),
            sample_pairs=tuple(storage.sample_pairs(connection, workspace_id, DRAWN_PAIRS)),
        )


def tags_of(regime_key: str) -> RegimeTags:
    """Return the tags a regime key names."""
    return regime_tags_of(regime_key.split(REGIME_KEY_SEPARATOR))


def market_grids(groups: Sequence[TuneGroup]) -> dict[Scoring, Grid]:
    """Return tunes by trend and volatility, one grid for scores that compare, most tunes first."""
    members: dict[Scoring, dict[tuple[str | None, str | None], list[TuneGroup]]] = {}
    for group in groups:
        tags = tags_of(group.regime_key)
        grid = members.setdefault(Scoring(group.timeframe, group.objective), defaultdict(list))
        grid[tags.trend_tag, tags.vol_tag].append(group)
    grids = {
        scoring: {place: _grid_cell(found) for place, found in grid.items()}
        for scoring, grid in members.items()
    }
    return dict(sorted(grids.items(), key=lambda it: (-sum(cell.tunes for cell in it[1].values()), it[0])))


def _grid_cell(groups: Sequence[TuneGroup]) -> GridCell:
    scored = sum(group.scored for group in groups)
    total = sum(group.mean_score * group.scored for group in groups if group.mean_score is not None)
    return GridCell(sum(group.tunes for group in groups), scored, total / scored if scored else None)


def coverage_gaps(
    groups: Sequence[TuneGroup],
    sightings: Sequence[Sighting],
    asked: Mapping[tuple[str | None, str], int],
) -> list[CoverageGap]:
    """Return where a strategy has too few scored tunes in a regime that was met with its bars.

    Those asked for most stand first, then those with an untried window, then those that need the
    fewest tunes. A regime counts as met where any strategy has a tune in it, or an ingested trial.
    """
    strategies = {(it.strategy_id, it.strategy, Scoring(it.timeframe, it.objective)) for it in groups}
    scored = {
        (it.strategy_id, Scoring(it.timeframe, it.objective), it.regime_key): it.scored for it in groups
    }
    places: dict[tuple[str, str], list[Sighting]] = {(it.timeframe, it.regime_key): [] for it in groups}
    for sighting in sightings:
        places.setdefault((sighting.timeframe, sighting.regime_key), []).append(sighting)
    gaps = [
        CoverageGap(
            strategy,
            scoring,
            regime_key,
            (found := scored.get((strategy_id, scoring, regime_key), 0)),
            MIN_SAMPLES - found,
            asked.get((strategy_id, regime_key), 0),
            tuple(it for it in seen if strategy_id not in it.tuned_by)[:_NAMED_WINDOWS],
        )
        for strategy_id, strategy, scoring in strategies
        for (timeframe, regime_key), seen in places.items()
        if timeframe == scoring.timeframe
    ]
    return sorted(
        (gap for gap in gaps if gap.missing > 0),
        key=lambda it: (-it.asked, not it.untried, it.missing, it.strategy, it.scoring, it.regime_key),
    )


def tier_weeks(usage: Sequence[Sequence[object]]) -> list[TierWeek]:
    """Return the recommendations of the newest weeks, oldest first, those without any included.

    Args:
        usage: Rows of (ISO-8601 day, strategy, tier, calls, ...), oldest first.
    """
    calls: dict[date, Counter[str]] = defaultdict(Counter)
    for day, _strategy, tier, count, *_rest in usage:
        on = datetime.fromisoformat(str(day)).date()
        calls[on - timedelta(days=on.weekday())][str(tier)] += int(str(count))
    if not calls:
        return []
    newest, oldest = max(calls), min(calls)
    weeks = min((newest - oldest).days // 7, DRAWN_WEEKS - 1)
    mondays = [newest - timedelta(weeks=back) for back in range(weeks, -1, -1)]
    return [TierWeek(monday, dict(calls[monday])) for monday in mondays]
