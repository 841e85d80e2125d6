"""Read what tunes scored and keep the uplift made of it. Statements: `sql/kb_regime_uplift.sql`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt
from psycopg.rows import dict_row

from kb_pipeline.domain.uplift import Trials
from kb_pipeline.domain.uplift_cells import MedianInterval, UpliftCell, UpliftReport, UpliftScope
from kb_pipeline.rules import BackfillKind
from kb_pipeline.sql import statement
from kb_pipeline.storage.backfill_runs import Ledger, LedgerCounts
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.questions import strategies
from kb_pipeline.storage.session import now

Integers = npt.NDArray[np.int64]

_SCORED_TRIAL: Final = np.dtype([("params_hash", ">i8"), ("score", ">f8"), ("score_in_sample", ">f8")])
_NAMED: Final = ("strategies", "regimes", "symbols", "timeframes", "objectives")
_ROWS_AT_ONCE: Final = 2_000


@dataclass(frozen=True, slots=True)
class Named:
    """A column of names as numbers: `numbers` are places in `names`, -1 where there is no name."""

    numbers: Integers
    names: list[str]

    def name(self, row: int) -> str | None:
        """Return the name in one row."""
        number = self.numbers[row]
        return self.names[number] if number >= 0 else None


@dataclass(frozen=True, slots=True)
class TuneScores:
    """Completed tunes, column by column, and their completed trials.

    Strategies and the set each declares as its defaults are known by the strategy's id.
    """

    strategies: Named
    regimes: Named
    symbols: Named
    timeframes: Named
    objectives: Named
    trials: Trials
    declared: dict[str, int]
    strategy_names: dict[str, str]


class _Numbers(dict[str | None, int]):
    """Numbers names as they come; None is -1."""

    def __init__(self) -> None:
        super().__init__({None: -1})

    @property
    def names(self) -> list[str]:
        """The names in the order of their numbers."""
        return [name for name in self if name is not None]

    def __missing__(self, name: str | None) -> int:
        return self.setdefault(name, len(self) - 1)


def read_tune_scores(connection: Connection, workspace_id: UUID) -> TuneScores:
    """Return every completed tune of a workspace with its scores, all of one moment.

    Postgres itself refuses any write meanwhile. What is held grows with the tunes by 24 bytes a trial.
    """
    scope = {"workspace_id": workspace_id}
    numbers = [_Numbers() for _ in _NAMED]
    coded: list[list[int]] = []
    packed: list[bytes] = []
    with one_moment(connection), connection.cursor("tune_scores", binary=True) as cursor:
        cursor.itersize = _ROWS_AT_ONCE
        for *names, scores in cursor.execute(statement("kb_regime_uplift.tune_scores"), scope):
            coded.append([known[name] for known, name in zip(numbers, names, strict=True)])
            packed.append(scores or b"")
        strategy_names: dict[str, str] = dict(strategies(connection, workspace_id))
        declared = connection.execute(
            statement("backtest_tunes.declared_defaults"), scope | {"strategy_ids": list(strategy_names)}
        ).fetchall()
    columns = np.array(coded, dtype=np.int64).reshape(-1, len(numbers)).T
    named = [Named(column, known.names) for column, known in zip(columns, numbers, strict=True)]
    sets, trials = _trials(packed)
    return TuneScores(
        **dict(zip(_NAMED, named, strict=True)),
        trials=trials,
        declared={strategy_id: sets[params] for strategy_id, params in declared if params in sets},
        strategy_names=strategy_names,
    )


def _trials(packed: Sequence[bytes]) -> tuple[dict[int, int], Trials]:
    """Return the number of each parameter set by its hash, and the trials of tunes given as bytes."""
    trials = np.frombuffer(b"".join(packed), dtype=_SCORED_TRIAL)
    trials_of = [len(of_tune) // _SCORED_TRIAL.itemsize for of_tune in packed]
    hashes, sets = np.unique(trials["params_hash"].astype(np.int64), return_inverse=True)
    numbers = dict(zip(hashes.tolist(), range(len(hashes)), strict=True))
    return numbers, Trials(
        tunes=np.repeat(np.arange(len(packed)), trials_of),
        sets=sets,
        scores=trials["score"].astype(np.float64),
        scores_in_sample=trials["score_in_sample"].astype(np.float64),
    )


@contextmanager
def one_moment(connection: Connection) -> Iterator[None]:
    """Let all reads of the block see the same moment; Postgres itself refuses any write meanwhile."""
    with connection.transaction():
        connection.execute(statement("kb_regime_uplift.read_only"))
        connection.execute(statement("session.allow_long_read"))
        yield


def replace_uplift(
    connection: Connection, workspace_id: UUID, report: UpliftReport, settings: Mapping[str, Any]
) -> datetime:
    """Put one measurement in the place of the last one, with its ledger row, or nothing at all.

    Only for the holder of the writer's lock. Returns the time of it.
    """
    cells = json.dumps([_row(cell) for cell in report.cells], allow_nan=False)
    counts = LedgerCounts(
        report.scanned, report.known, report.scanned - report.known, conflicts=0, by_reason=report.unknown
    )
    with connection.transaction():
        ledger = Ledger.open(connection, BackfillKind.UPLIFT, workspace_id, settings, None)
        scope = {"workspace_id": workspace_id, "ledger_id": ledger.ledger_id}
        connection.execute(statement("kb_regime_uplift.clear"), scope)
        connection.execute(statement("kb_regime_uplift.land"), scope | {"cells": cells})
        ledger.advance(None, counts)
        ledger.close("completed")
        return now(connection)


def _row(cell: UpliftCell) -> dict[str, Any]:
    """Return a cell under the names of the table's columns."""
    row: dict[str, Any] = asdict(cell)
    over_blind = {f"over_blind_{name}": value for name, value in row.pop("over_blind").items()}
    row |= row.pop("uplift") | over_blind | {"strategy_entity_id": row.pop("strategy_id")}
    return row


def read_uplift(connection: Connection, workspace_id: UUID) -> UpliftReport | None:
    """Return the uplift of a workspace as it was last measured, None where it never was."""
    scope = {"workspace_id": workspace_id}
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(statement("session.one_snapshot"))
        last = cursor.execute(statement("kb_regime_uplift.last_computation"), scope).fetchone()
        rows = cursor.execute(statement("kb_regime_uplift.cells"), scope).fetchall()
    return UpliftReport(cells=tuple(map(_cell, rows)), **last) if last else None


def _cell(row: dict[str, Any]) -> UpliftCell:
    scope = UpliftScope(row.pop("scope"))
    uplift, over_blind = _interval(row, ""), _interval(row, "over_blind_")
    return UpliftCell(scope=scope, uplift=uplift, over_blind=over_blind, **row)


def _interval(row: dict[str, Any], prefix: str) -> MedianInterval:
    return MedianInterval(**{it.name: row.pop(f"{prefix}{it.name}") for it in fields(MedianInterval)})
