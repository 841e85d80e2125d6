"""Read the sources of trials and keep `kb_trials` in step with them. Statements: `sql/kb_trials.sql`."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from kb_pipeline.sql import statement
from kb_pipeline.storage.backtest_runs import Rows, since_parameter
from kb_pipeline.storage.postgres import Connection


def read_sources_page(
    connection: Connection,
    workspace_id: UUID,
    *,
    since: datetime | None,
    bounds: Mapping[str, str],
    rows: int,
) -> Rows:
    """Return candidates, promoted runs and completed trials not ingested in their present version."""
    parameters = {"workspace_id": workspace_id, "since": since_parameter(since), "rows": rows}
    return connection.execute(statement("kb_trials.read_sources_page"), {**parameters, **bounds}).fetchall()


def land_trials(connection: Connection, workspace_id: UUID, trials: Sequence[Mapping[str, Any]]) -> set[str]:
    """Insert or update trials, given as mappings of column names; return the source ids written."""
    sent = json.dumps(list(trials), allow_nan=False)
    landed = connection.execute(
        statement("kb_trials.land_trials"), {"workspace_id": workspace_id, "trials": sent}
    )
    return {str(row[0]) for row in landed}


def demoted(connection: Connection, workspace_id: UUID) -> Rows:
    """Return (source type, source id) of trials whose source is gone or no longer eligible."""
    return connection.execute(statement("kb_trials.demoted"), {"workspace_id": workspace_id}).fetchall()


def archive(connection: Connection, workspace_id: UUID, sources: Rows) -> None:
    """Put trials away, given by (source type, source id)."""
    source_types, source_ids = zip(*sources, strict=True)
    connection.execute(
        statement("kb_trials.archive"),
        {"workspace_id": workspace_id, "source_types": list(source_types), "source_ids": list(source_ids)},
    )
