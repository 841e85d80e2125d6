"""Reading tunes with their trials and writing their attribution. Statements: `sql/backtest_tunes.sql`."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np
import numpy.typing as npt

from kb_pipeline.domain.attribution import ParameterScores, RegimeIdentity, SummedSets
from kb_pipeline.rules import TAG_RULESET_ID
from kb_pipeline.sql import statement
from kb_pipeline.storage.backtest_runs import Rows, since_parameter
from kb_pipeline.storage.postgres import Connection, read_only_session

_ARRAY_HEADER_BYTES: Final = 20
"""What the binary form of an array of one dimension begins with. Nulls have no bytes and may not occur."""

_ELEMENT: Final = {kind: np.dtype([("bytes", ">i4"), ("value", f">{kind}")]) for kind in ("i8", "f8")}

_TUNES_AT_ONCE: Final = 5_000
"""Tunes whose trials are held at a time while they are summed up."""

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
    tags, the timeframe of its data, whether it is attributed (by an earlier completion), and for `trials_of`
    the parameters and scores of its trials.
    """
    parameters = {"workspace_id": workspace_id, "since": since_parameter(since), "rows": rows}
    with connection.joined(), connection.cursor(binary=True) as cursor:
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


def withdraw_attributions(connection: Connection, workspace_id: UUID, versions: Mapping[str, str]) -> int:
    """Take back the attributions of tunes, by id and the version they were read in; return how many were."""
    row = connection.execute(
        statement("backtest_tunes.withdraw_attributions"),
        {"workspace_id": workspace_id, "ids": list(versions), "versions": list(versions.values())},
    ).fetchone()
    assert row is not None  # noqa: S101 - a count always answers
    return int(row[0])


def tune_hashes(ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the first 8 bytes of each id as a number, shape (tunes,)."""
    joined = b"".join(bytes.fromhex(tune_id.replace("-", ""))[:8] for tune_id in ids)
    return np.frombuffer(joined, dtype=">i8").astype(np.int64)


class TuneTrials(NamedTuple):
    """The completed trials of some tunes, one after the other.

    Position of the trial's tune, 64-bit hash of its parameters, its out-of-sample Sharpe ratio, NaN
    where it has none; shape (trials,) each.
    """

    tunes: npt.NDArray[np.int64]
    params_hashes: npt.NDArray[np.int64]
    sharpes: npt.NDArray[np.float64]


def trials_of(params_hashes: Sequence[bytes | None], sharpes: Sequence[bytes | None]) -> TuneTrials:
    """Return the trials of tunes from two arrays a tune in Postgres' binary form, None where empty."""
    width = _ELEMENT["i8"].itemsize
    counts = [(len(value) - _ARRAY_HEADER_BYTES) // width if value else 0 for value in params_hashes]
    return TuneTrials(
        np.repeat(np.arange(len(counts)), counts),
        _elements(params_hashes, "i8").astype(np.int64),
        _elements(sharpes, "f8").astype(np.float64),
    )


def _elements(arrays: Sequence[bytes | None], kind: str) -> npt.NDArray[Any]:
    joined = b"".join(value[_ARRAY_HEADER_BYTES:] for value in arrays if value)
    return np.frombuffer(joined, dtype=_ELEMENT[kind])["value"]


def parameter_scores(
    connection: Connection, workspace_id: UUID, strategy_ids: Sequence[str]
) -> dict[str, ParameterScores]:
    """Return the scores of strategies' parameter sets, their completed tunes and declared defaults.

    Half of the tunes is summed up in this session and half in one beside it, at the same time. Each
    half is of one moment, so that a tune is either in the sums and among the counted, or in neither.
    """
    scope = {"workspace_id": workspace_id, "strategy_ids": list(strategy_ids)}
    with read_only_session(connection) as beside, ThreadPoolExecutor(1) as pool:
        second = pool.submit(_half_of_the_sums, beside, scope | {"half": 1})
        try:
            first = _half_of_the_sums(connection, scope | {"half": 0})
        except BaseException:  # who stops one half must not wait for the other
            beside.cancel_safe()
            raise
        halves = [first, second.result()]
    declared: dict[str, int] = dict(
        connection.execute(statement("backtest_tunes.declared_defaults"), scope).fetchall()
    )
    return {
        strategy_id: ParameterScores.of(
            SummedSets.joined([part for half in halves for part in half.get(strategy_id, ())]),
            declared_default=declared.get(strategy_id),
        )
        for strategy_id in strategy_ids
    }


def _half_of_the_sums(connection: Connection, scope: Mapping[str, Any]) -> dict[str, list[SummedSets]]:
    """Return, by strategy, the sums of the parameter sets tried in half of the tunes, in parts."""
    parts: dict[str, list[SummedSets]] = {}
    with connection.transaction(), connection.cursor("scored_trials", binary=True) as cursor:
        connection.execute(statement("session.allow_long_read"))
        cursor.execute(statement("backtest_tunes.scored_trials"), scope)
        while rows := cursor.fetchmany(_TUNES_AT_ONCE):
            strategies = np.array([row[0] for row in rows])
            for strategy_id in np.unique(strategies).tolist():
                of_strategy = [rows[row] for row in np.flatnonzero(strategies == strategy_id)]
                _, id_starts, params_hashes, sharpes = zip(*of_strategy, strict=True)
                counted = np.frombuffer(b"".join(id_starts), dtype=">i8").astype(np.int64)
                summed = SummedSets.of(*trials_of(params_hashes, sharpes), counted=counted)
                parts.setdefault(strategy_id, []).append(summed)
    return parts
