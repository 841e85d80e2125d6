"""Reading what questions are asked about and what tunes are best. Statements: `sql/questions.sql`."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from kb_pipeline.sql import statement
from kb_pipeline.storage.backtest_runs import Rows
from kb_pipeline.storage.postgres import Connection


def best_of_keys(
    connection: Connection,
    workspace_id: UUID,
    regime_keys: Sequence[str],
    kinds: Sequence[tuple[str, str]],
    rows: int,
) -> Rows:
    """Return the best scored tunes of each kind of score (timeframe, objective) under each key, in order:
    id, strategy's name, key, timeframe, objective, score, params (JSON text), best run, strategy's id.
    """
    parameters = {
        "workspace_id": workspace_id,
        "regime_keys": list(regime_keys),
        "timeframes": [timeframe for timeframe, _ in kinds],
        "objectives": [objective for _, objective in kinds],
        "rows": rows,
    }
    return connection.execute(statement("questions.best_of_keys"), parameters).fetchall()


def regime_counts(connection: Connection, workspace_id: UUID) -> Rows:
    """Return each regime key, timeframe and objective of a workspace with its tunes, the scored ones and
    their mean score.
    """
    with connection.transaction():
        connection.execute(statement("session.allow_long_read"))
        connection.execute(statement("questions.prefer_index"))
        return connection.execute(
            statement("questions.regime_counts"), {"workspace_id": workspace_id}
        ).fetchall()


def strategies(connection: Connection, workspace_id: UUID) -> Rows:
    """Return (id, name) of a workspace's strategies by name."""
    return connection.execute(statement("questions.strategies"), {"workspace_id": workspace_id}).fetchall()


def as_uuid(text: str) -> UUID | None:
    """Return the id that a text is, None for any other text."""
    try:
        return UUID(text)
    except ValueError:
        return None


def strategies_named(connection: Connection, workspace_id: UUID, name: str) -> Rows:
    """Return (id, name) of a workspace's strategies with this id or name, whatever its case."""
    parameters = {"workspace_id": workspace_id, "id": as_uuid(name), "name": name}
    return connection.execute(statement("questions.strategies_named"), parameters).fetchall()


def asked_run(connection: Connection, workspace_id: UUID, run_id: UUID) -> tuple[Any, ...] | None:
    """Return the snapshot of a run (JSON text), timeframe, and the tunes it is a trial of; None: no run."""
    return connection.execute(
        statement("questions.asked_run"), {"workspace_id": workspace_id, "run_id": run_id}
    ).fetchone()
