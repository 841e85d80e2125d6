"""Reading tunes with their trials and writing their attribution. Statements: `sql/backtest_tunes.sql`."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from kb_pipeline.storage.postgres import Connection, read_only_session

SCORED_TRIAL: Final = np.dtype([("params_hash", ">i8"), ("sharpe", ">f8")])
"""What the page statement packs of each scored trial: arrays of numbers are slow to parse."""

_SUMMED_SET: Final = np.dtype([("params_hash", ">i8"), ("total", ">f8"), ("tunes", ">i8")])
"""What the sums of a parameter set are packed into."""

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
    tags, the timeframe of its data, and the SCORED_TRIAL records of all its completed trials.
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
    connection: Connection, workspace_id: UUID, strategy_ids: Sequence[str]
) -> dict[str, ParameterScores]:
    """Return the scores of strategies' parameter sets, their completed tunes and declared defaults.

    Half of the tunes is summed up in this session and half in one beside it, at the same time. Each
    half is of one moment, so that a tune is either in the sums and among the counted, or in neither.
    """
    scope = {"workspace_id": workspace_id, "strategy_ids": list(strategy_ids)}
    with read_only_session(connection) as beside, ThreadPoolExecutor(1) as pool:
        second = pool.submit(_half_of_the_scores, beside, scope | {"half": 1})
        try:
            first = _half_of_the_scores(connection, scope | {"half": 0})
        except BaseException:  # who stops one half must not wait for the other
            beside.cancel_safe()
            raise
        halves = [first, second.result()]
    declared: dict[str, int] = dict(
        connection.execute(statement("backtest_tunes.declared_defaults"), scope).fetchall()
    )
    return {
        strategy_id: _joined(
            [sums.get(strategy_id, b"") for sums, _ in halves],
            [counted.get(strategy_id, b"") for _, counted in halves],
            declared.get(strategy_id),
        )
        for strategy_id in strategy_ids
    }


def _half_of_the_scores(
    connection: Connection, scope: Mapping[str, Any]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return, by strategy, the packed sums of half of the tunes and the packed ids of that half."""
    with connection.transaction(), connection.cursor(binary=True) as cursor:
        cursor.execute(statement("session.one_snapshot"))
        cursor.execute(statement("session.allow_long_read"))
        sums: dict[str, bytes] = dict(
            cursor.execute(statement("backtest_tunes.parameter_scores"), scope).fetchall()
        )
        counted: dict[str, bytes] = dict(
            cursor.execute(statement("backtest_tunes.counted_tunes"), scope).fetchall()
        )
    return sums, counted


def _joined(sums: Sequence[bytes], counted: Sequence[bytes], declared_default: int | None) -> ParameterScores:
    sets = np.frombuffer(b"".join(sums), dtype=_SUMMED_SET)
    return ParameterScores.of(
        sets["params_hash"].astype(np.int64),
        sets["total"].astype(np.float64),
        sets["tunes"].astype(np.int64),
        counted=np.frombuffer(b"".join(counted), dtype=">i8").astype(np.int64),
        declared_default=declared_default,
    )
