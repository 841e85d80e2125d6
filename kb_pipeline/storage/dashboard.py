"""Read what the dashboard shows and nobody else asks for. Statements: `sql/dashboard.sql`."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from kb_pipeline.sql import statement
from kb_pipeline.storage.postgres import Connection


class WorkspaceState(NamedTuple):
    """A workspace at one moment: its tunes, those with a regime, and whether trials were ingested."""

    name: str
    slug: str
    read_at: datetime
    completed_tunes: int
    attributed_tunes: int
    has_trials: bool


class TuneGroup(NamedTuple):
    """Attributed tunes whose scores compare, in one regime. Scores are out of sample, None for none.

    `best_params` is the beginning of its JSON text.
    """

    strategy_id: str
    strategy: str
    timeframe: str
    objective: str
    regime_key: str
    tunes: int
    scored: int
    mean_score: float | None
    best_score: float | None
    best_params: str | None
    best_tune_id: str | None
    best_run_id: str | None


class Sighting(NamedTuple):
    """A window of a symbol that had a regime, its ends as ISO-8601 dates, and who was tuned there.

    `tuned_by` holds ids of strategies.
    """

    regime_key: str
    timeframe: str
    symbol: str
    start: str
    end: str
    tuned_by: frozenset[str]


class SampleGap(NamedTuple):
    """What the trials that were best in sample scored, over the tunes of a strategy: medians.

    `median_gap` is of the scores in sample minus out of sample, `share_lower` the share of tunes that
    scored less out of sample, 0 to 1.
    """

    strategy: str
    timeframe: str
    tunes: int
    median_in_sample: float
    median_out_of_sample: float
    median_gap: float
    share_lower: float


class SamplePair(NamedTuple):
    """The trial of a tune that was best in sample, with its Sharpe ratios."""

    tune_id: str
    strategy: str
    timeframe: str
    symbol: str | None
    run_id: str
    in_sample: float
    out_of_sample: float


def workspace_state(connection: Connection, workspace_id: UUID) -> WorkspaceState:
    """Return an existing workspace and how far its tunes have come."""
    row = connection.execute(statement("dashboard.workspace"), {"workspace_id": workspace_id}).fetchone()
    assert row is not None  # noqa: S101 - callers have made sure that it exists
    return WorkspaceState(*row)


def tune_groups(connection: Connection, workspace_id: UUID) -> list[TuneGroup]:
    """Return the attributed tunes by strategy, bar length, objective and regime, largest groups first."""
    rows = connection.execute(statement("dashboard.tune_groups"), {"workspace_id": workspace_id})
    return [TuneGroup(*row) for row in rows]


def sightings(connection: Connection, workspace_id: UUID, windows: int) -> list[Sighting]:
    """Return where each regime was met, at most so many windows a regime and bar length."""
    parameters = {"workspace_id": workspace_id, "windows": windows}
    rows = connection.execute(statement("dashboard.sightings"), parameters)
    return [Sighting(*row[:5], tuned_by=frozenset(row[5])) for row in rows]  # type: ignore[misc]


def asked_regimes(connection: Connection, workspace_id: UUID) -> dict[tuple[str | None, str], int]:
    """Return how often each (strategy id, regime key) was asked a recommendation for."""
    rows = connection.execute(statement("dashboard.asked_regimes"), {"workspace_id": workspace_id})
    return {(strategy_id, regime_key): calls for strategy_id, regime_key, calls in rows}


def sample_gaps(connection: Connection, workspace_id: UUID) -> list[SampleGap]:
    """Return in-sample against out-of-sample scores by strategy and bar length, most tunes first."""
    rows = connection.execute(statement("dashboard.sample_gaps"), {"workspace_id": workspace_id})
    return [SampleGap(*row) for row in rows]


def sample_pairs(connection: Connection, workspace_id: UUID, rows: int) -> list[SamplePair]:
    """Return in-sample against out-of-sample scores of the newest tunes that have both."""
    parameters = {"workspace_id": workspace_id, "rows": rows}
    return [SamplePair(*row) for row in connection.execute(statement("dashboard.sample_pairs"), parameters)]
