"""Reading tunes with their trials and writing their attribution. Statements: `sql/backtest_tunes.sql`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from kb_pipeline.rules import TAG_RULESET_ID
from kb_pipeline.sql import statement
from kb_pipeline.storage.backtest_runs import Rows, since_parameter
from kb_pipeline.storage.postgres import Connection


def read_attribution_page(
    connection: Connection,
    workspace_id: UUID,
    *,
    since: datetime | None,
    bounds: Mapping[str, str],
    rows: int,
) -> Rows:
    """Return completed tunes that wait for attribution, each with its best trial, snapshot and scores.

    Columns: id, created_at, version, completed_at, strategy id, number of completed trials, best run,
    its params (JSON text) and Sharpe, type of its snapshot and JSON text of the snapshot's version and
    tags, then hashes of the parameters and Sharpe ratios of all scored trials.
    """
    parameters = {"workspace_id": workspace_id, "since": since_parameter(since), "rows": rows}
    with connection.cursor(binary=True) as cursor:  # arrays of numbers are costly to parse from text
        return cursor.execute(
            statement("backtest_tunes.read_attribution_page"), {**parameters, **bounds}
        ).fetchall()


def land_attributions(
    connection: Connection, workspace_id: UUID, columns: Mapping[str, Sequence[Any]]
) -> set[str]:
    """Write attributions where the tune is as it was read; return the ids of the tunes changed.

    `columns` are parallel lists under the names of the statement's arrays.
    """
    changed = connection.execute(
        statement("backtest_tunes.land_attributions"),
        {"workspace_id": workspace_id, "ruleset_id": TAG_RULESET_ID, **columns},
    )
    return {str(row[0]) for row in changed}


def parameter_scores(
    connection: Connection, workspace_id: UUID, strategy_id: str, leaders: int
) -> tuple[Rows, int | None]:
    """Return (hash, total, trials, leads) of a strategy's parameter sets and the hash of its defaults."""
    scope = {"workspace_id": workspace_id, "strategy_id": strategy_id}
    rows = connection.execute(
        statement("backtest_tunes.parameter_scores"), scope | {"leaders": leaders}
    ).fetchall()
    declared = connection.execute(statement("backtest_tunes.declared_defaults"), scope).fetchone()
    return rows, int(str(declared[0])) if declared else None
