"""Reading candidates for a recommendation and logging it. Statements: `sql/recommend_events.sql`."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from kb_pipeline.sql import statement
from kb_pipeline.storage.backtest_runs import Rows
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.questions import as_uuid

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


class Tier(NamedTuple):
    """A tier by key: its regime keys, and the most candidates it gives."""

    regime_keys: Sequence[str]
    most: int


class Walked(NamedTuple):
    """The strategies, by id, that a text names; and of each tier walked what it has, best first."""

    strategies: list[tuple[str, str]]
    tiers: dict[str, list[Source]]


def ask_tiers(
    connection: Connection,
    workspace_id: UUID,
    group: ScoreGroup,
    tiers: Mapping[str, Tier],
    needed: int,
    *,
    name: str | None = None,
    itself: Collection[str] = (),
) -> Callable[[], Walked]:
    """Ask for the best scored tunes and runs of a group in each tier until enough are found.

    The group is that of the one strategy with its id, or also with this name; of several nothing is walked.
    `itself` may be among what is found, and does not count: so many more come of each tier.

    Returns:
        What gives the answer, when it is called: what is asked in a pipeline before that travels together.
    """
    parameters = {
        "workspace_id": workspace_id,
        "strategy_id": as_uuid(group.strategy_id),
        "timeframe": group.timeframe,
        "objective": group.objective,
        "name": name,
        "keys": _array(f'"{",".join(it.regime_keys)}"' for it in tiers.values()),
        "most": _array(it.most for it in tiers.values()),
        "rows": _array(it.most + len(itself) for it in tiers.values()),
        "needed": needed,
        "itself": _array(itself),
    }
    rows = connection.execute(statement("recommend_events.walk_tiers"), parameters)
    return lambda: _walked(rows.fetchall(), list(tiers))


def _array(values: Iterable[object]) -> str:
    """Return an array of plain words and numbers as Postgres writes it, which takes psycopg longer."""
    return f"{{{','.join(map(str, values))}}}"


def _walked(rows: Iterable[tuple[Any, ...]], names: Sequence[str]) -> Walked:
    found = Walked([], {})
    for place, *row in rows:
        if not place:
            found.strategies.append((row[1], row[2]))
            continue
        sources = found.tiers.setdefault(names[place - 1], [])
        if row[0] is not None:
            sources.append(Source(*row))
    return found


def best_of_any(
    connection: Connection, workspace_id: UUID, group: ScoreGroup, rows: int, known_ids: Collection[str]
) -> list[Source]:
    """Return the best scored tunes and runs of a group in any regime, best first, without known ones."""
    parameters = {"workspace_id": workspace_id, "rows": rows, "known_ids": _array(known_ids)}
    found = connection.execute(statement("recommend_events.best_of_any"), {**parameters, **group._asdict()})
    return [Source(*row) for row in found.fetchall()]


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
