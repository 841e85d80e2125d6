"""Reading candidates for a recommendation and logging it. Statements: `sql/recommend_events.sql`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from kb_pipeline.sql import statement
from kb_pipeline.storage.backtest_runs import Rows
from kb_pipeline.storage.postgres import Connection

_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)


class ScoreGroup(NamedTuple):
    """What scores are ranked within: a strategy, a timeframe and an objective."""

    strategy_id: str
    timeframe: str
    objective: str


class Source(NamedTuple):
    """A tune, or a single run, that may be recommended: its best parameters (JSON text) and their score.

    The last three are None where a statement knows them already. `score` may be None or NaN where the
    source was asked for by its id.
    """

    source_type: str
    id: str
    regime_key: str | None
    score: float | None
    params: str | None
    run_id: str | None
    strategy: str | None = None
    timeframe: str | None = None
    objective: str | None = None


def candidates(
    connection: Connection,
    workspace_id: UUID,
    group: ScoreGroup,
    regime_keys: Sequence[str],
    rows: int,
    known_ids: Collection[str] = (),
) -> list[Source]:
    """Return the best scored tunes and runs of a group under some regime keys, best first, but known ones."""
    parameters = {
        "workspace_id": workspace_id,
        "regime_keys": list(regime_keys),
        "rows": rows,
        "known_ids": list(known_ids),
    }
    found = connection.execute(statement("recommend_events.candidates"), {**parameters, **group._asdict()})
    return [Source(*row) for row in found]


def candidates_by_id(connection: Connection, workspace_id: UUID, ids: Sequence[str]) -> dict[str, Source]:
    """Return attributed tunes and ingested runs by their ids; what is gone is not among them."""
    parameters = {"workspace_id": workspace_id, "ids": list(ids)}
    found = connection.execute(statement("recommend_events.candidates_by_id"), parameters)
    return {row[1]: Source(*row) for row in found}


def score_groups(
    connection: Connection, workspace_id: UUID, strategy_id: str | None = None
) -> list[ScoreGroup]:
    """Return the groups with candidates in a workspace, or those of one strategy."""
    bounds = {
        "workspace_id": workspace_id,
        "first_strategy_id": strategy_id or _FIRST,
        "last_strategy_id": strategy_id or _LAST,
    }
    return [
        ScoreGroup(*row) for row in connection.execute(statement("recommend_events.score_groups"), bounds)
    ]


def group_keys(connection: Connection, workspace_id: UUID, group: ScoreGroup) -> list[str]:
    """Return every regime key that a group has candidates under, of any ruleset; an empty one is none."""
    scope = {"workspace_id": workspace_id, **group._asdict()}
    return [row[0] for row in connection.execute(statement("recommend_events.group_keys"), scope)]


def count_candidates(
    connection: Connection, workspace_id: UUID, groups: Sequence[ScoreGroup], most: int
) -> list[int]:
    """Return how many scored candidates each group holds, counted up to `most`."""
    parameters = {
        "workspace_id": workspace_id,
        "strategy_ids": [group.strategy_id for group in groups],
        "timeframes": [group.timeframe for group in groups],
        "objectives": [group.objective for group in groups],
        "most": most,
    }
    counted = connection.execute(statement("recommend_events.count_candidates"), parameters)
    return [int(row[0]) for row in counted]


def log_event(connection: Connection, event: Mapping[str, Any]) -> None:
    """Keep one call, given by the statement's names."""
    connection.execute(statement("recommend_events.log_event"), event)


def tier_usage(connection: Connection, workspace_id: UUID) -> Rows:
    """Return (day, strategy, tier, calls, mean candidates, mean milliseconds), oldest first."""
    return connection.execute(
        statement("recommend_events.tier_usage"), {"workspace_id": workspace_id}
    ).fetchall()
