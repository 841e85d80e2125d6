"""Reading tunes with their trials and writing their attribution. Statements: `sql/backtest_tunes.sql`."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from kb_pipeline.domain.attribution import ParameterScores, RegimeIdentity
from kb_pipeline.rules import TAG_RULESET_ID
from kb_pipeline.sql import statement
from kb_pipeline.storage.backtest_runs import Rows, since_parameter
from kb_pipeline.storage.postgres import Connection

SCORED_TRIAL: Final = np.dtype([("params_hash", ">i8"), ("sharpe", ">f8")])
"""What the page statement packs of each scored trial: arrays of numbers are slow to parse."""

_REGIME_COLUMNS: Final = tuple(field.name for field in fields(RegimeIdentity))


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
    tags, and the SCORED_TRIAL records of all its completed trials.
    """
    parameters = {"workspace_id": workspace_id, "since": since_parameter(since), "rows": rows}
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(
            statement("backtest_tunes.read_attribution_page"), {**parameters, **bounds}
        ).fetchall()


def land_attributions(
    connection: Connection,
    workspace_id: UUID,
    *,
    regimes: Sequence[RegimeIdentity],
    columns: Mapping[str, Sequence[Any]],
) -> set[str]:
    """Write attributions where the tune is as it was read; return the ids of the tunes changed.

    `columns` are lists parallel to `regimes`, under the names of the statement's arrays. A page has
    few regimes, so each is sent once and the tunes point at theirs.
    """
    distinct = {regime: position for position, regime in enumerate(dict.fromkeys(regimes), start=1)}
    names = {f"{name}s": [getattr(regime, name) for regime in distinct] for name in _REGIME_COLUMNS}
    changed = connection.execute(
        statement("backtest_tunes.land_attributions"),
        {
            "workspace_id": workspace_id,
            "ruleset_id": TAG_RULESET_ID,
            "regimes": [distinct[regime] for regime in regimes],
            **names,
            **columns,
        },
    )
    return {row[0] for row in changed.fetchall()}


def tune_hashes(ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the first 8 bytes of each id as a number, shape (tunes,)."""
    joined = b"".join(bytes.fromhex(tune_id.replace("-", ""))[:8] for tune_id in ids)
    return np.frombuffer(joined, dtype=">i8").astype(np.int64)


def parameter_scores(
    connection: Connection, workspace_id: UUID, strategy_id: str, leaders: int
) -> ParameterScores:
    """Return the scores of a strategy's parameter sets, its completed tunes and declared defaults.

    All of one moment, so that a tune is either in the sums and among the counted, or in neither.
    """
    scope = {"workspace_id": workspace_id, "strategy_id": strategy_id}
    with connection.transaction():
        connection.execute(statement("session.one_snapshot"))
        connection.execute(statement("session.allow_long_read"))
        rows = connection.execute(
            statement("backtest_tunes.parameter_scores"), scope | {"leaders": leaders}
        ).fetchall()
        (counted,) = connection.execute(
            statement("backtest_tunes.counted_tunes"), scope, binary=True
        ).fetchone() or (None,)
        declared = connection.execute(statement("backtest_tunes.declared_defaults"), scope).fetchone()
    return ParameterScores.of(
        rows,
        np.frombuffer(counted or b"", dtype=">i8").astype(np.int64),
        int(declared[0]) if declared else None,
    )
