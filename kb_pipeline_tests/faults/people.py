"""What a person does to rows while a backfill runs over them, and what must be left of it afterwards."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.builders import TREND_SNAPSHOT
from kb_pipeline_tests.faults import world


@dataclass(frozen=True)
class Edit:
    """A change by a person: statements with `%(id)s`, each its own transaction, and a query that is true
    of the row once everything has settled, whether the backfill came to it before or after."""

    statements: Sequence[str]
    settled: str


def _decided(status: str) -> list[str]:
    """Return how the platform stores a decision: the row, and its audit row beside it."""
    return [
        "WITH decided AS (UPDATE backtest_runs SET kb_status_changed_by = 'alice',"
        f" kb_status_changed_at = clock_timestamp(), kb_status = '{status}' WHERE id = %(id)s RETURNING id)"
        " INSERT INTO kb_status_history (workspace_id, source_type, source_id, from_status, to_status,"
        " actor_type, actor_id, created_at) SELECT workspace_id, 'test_variant', id, coalesce(kb_status,"
        f" 'excluded'), '{status}', 'admin', 'alice', clock_timestamp() FROM backtest_runs WHERE id = %(id)s"
    ]


def _run(holds: str) -> str:
    return f"SELECT {holds} FROM backtest_runs WHERE id = %(id)s"


_HERS = "kb_status_changed_by = 'alice' AND kb_status = "
_TREND = json.dumps(TREND_SNAPSHOT)

_GONE = Edit(
    ["DELETE FROM backtest_runs WHERE id = %(id)s"],
    "SELECT NOT EXISTS (SELECT FROM backtest_runs WHERE id = %(id)s)",
)
_TOUCHED = Edit(["UPDATE backtest_runs SET engine = 'hers' WHERE id = %(id)s"], _run("engine = 'hers'"))

_EDITS: dict[BackfillKind, list[Edit]] = {
    BackfillKind.CANDIDACY: [
        *(Edit(_decided(it), _run(f"{_HERS} '{it}'")) for it in ("promoted", "rejected", "excluded")),
        Edit([*_decided("candidate"), *_decided("excluded")], _run(f"{_HERS} 'excluded'")),
        Edit(
            ["UPDATE backtest_runs SET summary = '{\"trades\": 1}' WHERE id = %(id)s"],
            # a candidate already, it keeps the audit row it got by what it was
            _run("kb_status = 'candidate' OR kb_status_changed_at IS NULL"),
        ),
        _TOUCHED,
        _GONE,
    ],
    BackfillKind.REGIME: [
        Edit(
            [f"UPDATE backtest_runs SET regime_oos = '{_TREND}' WHERE id = %(id)s"],
            _run(f"regime_oos = '{_TREND}'"),
        ),
        Edit(
            ["UPDATE backtest_runs SET status = 'failed' WHERE id = %(id)s"],
            _run("status = 'failed'"),
        ),
        _TOUCHED,
        _GONE,
    ],
    BackfillKind.ATTRIBUTION: [
        Edit(
            [
                "WITH better AS (UPDATE backtest_tune_runs SET metrics_oos = jsonb_build_object('sharpe', 9,"
                f" 'regime', '{_TREND}'::jsonb) WHERE tune_id = %(id)s AND trial_index = 2)"
                " UPDATE backtest_tunes SET completed_at = completed_at + interval '1 day' WHERE id = %(id)s"
            ],
            "SELECT attributed_completed_at = completed_at AND best_oos_score = 9 AND trend_tag = 'uptrend'"
            "  FROM backtest_tunes WHERE id = %(id)s",
        ),
        Edit(
            ["UPDATE backtest_tunes SET status = 'running' WHERE id = %(id)s"],
            "SELECT status = 'running' FROM backtest_tunes WHERE id = %(id)s",
        ),
        Edit(
            ["UPDATE backtest_tunes SET error = 'hers' WHERE id = %(id)s"],
            "SELECT error = 'hers' FROM backtest_tunes WHERE id = %(id)s",
        ),
        Edit(
            ["DELETE FROM backtest_tunes WHERE id = %(id)s"],
            "SELECT NOT EXISTS (SELECT FROM backtest_tunes WHERE id = %(id)s)",
        ),
    ],
    BackfillKind.TRIALS: [
        Edit(
            ["UPDATE backtest_tune_runs SET kb_status = 'rejected' WHERE run_id = %(id)s"],
            "SELECT NOT EXISTS (SELECT FROM kb_trials WHERE source_id = %(id)s AND archived_at IS NULL)",
        ),
        Edit(
            ["UPDATE backtest_tune_runs SET metrics_oos = '{\"sharpe\": 9}' WHERE run_id = %(id)s"],
            "SELECT sharpe_oos = 9 FROM kb_trials WHERE source_id = %(id)s",
        ),
        Edit(
            _GONE.statements,
            "SELECT NOT EXISTS (SELECT FROM kb_trials WHERE source_id = %(id)s AND archived_at IS NULL)",
        ),
    ],
}

_ROWS = {
    BackfillKind.ATTRIBUTION: "SELECT id FROM backtest_tunes WHERE workspace_id = %s ORDER BY created_at",
    BackfillKind.TRIALS: "SELECT run_id FROM backtest_tune_runs AS trial JOIN backtest_tunes AS tune"
    " ON tune.id = trial.tune_id WHERE tune.workspace_id = %s ORDER BY tune.created_at, trial_index",
}
_RUNS = (
    "SELECT id FROM backtest_runs WHERE workspace_id = %s AND run_kind = 'test_variant' ORDER BY created_at"
)


def some_rows(connection: Connection, kind: BackfillKind, chance: random.Random, rows: int) -> list[UUID]:
    """Return rows that a person may look at."""
    query = _ROWS.get(kind, _RUNS)
    ids = [row_id for (row_id,) in connection.execute(query, [world.OURS])]  # type: ignore[call-overload]
    return chance.sample(ids, rows)


def edit_rows(
    connection: Connection, kind: BackfillKind, chance: random.Random, ids: Sequence[UUID]
) -> dict[UUID, Edit]:
    """Let a person change rows; those that the backfill holds at this moment are left alone."""
    edits = {row_id: chance.choice(_EDITS[kind]) for row_id in ids}
    done: dict[UUID, Edit] = {}
    for row_id, edit in edits.items():
        for statement in edit.statements:
            try:
                with connection.transaction():
                    connection.execute("SET LOCAL lock_timeout = '20ms'")
                    connection.execute(statement, {"id": row_id})  # type: ignore[call-overload]
                    done[row_id] = edit
            except psycopg.errors.LockNotAvailable:
                break
    return done


def unsettled(connection: Connection, edits: dict[UUID, Edit]) -> list[tuple[UUID, str]]:
    """Return the rows of which an edit was lost, or not followed."""

    def holds(row_id: UUID, edit: Edit) -> Any:
        row: Any = connection.execute(edit.settled, {"id": row_id}).fetchone()  # type: ignore[call-overload]
        return row is not None and row[0]

    return [(row_id, edit.settled) for row_id, edit in edits.items() if not holds(row_id, edit)]


def hold_rows(connection: Connection, kind: BackfillKind) -> None:
    """Let a person hold every row that a backfill writes, until the transaction ends."""
    if kind == BackfillKind.TRIALS:
        connection.execute("LOCK TABLE kb_trials IN EXCLUSIVE MODE")
    else:
        connection.execute(f"{_ROWS.get(kind, _RUNS)} FOR UPDATE", [world.OURS])  # type: ignore[call-overload]


def halves(ids: list[UUID]) -> tuple[list[UUID], list[UUID]]:
    """Return every other row, and the ones between."""
    return ids[::2], ids[1::2]


def but_for(edited: set[str], state: dict[str, Any]) -> dict[str, Any]:
    """Return what must be as if nothing had been: rows nobody edited, without scores taken from others."""
    return {
        row: {name: value for name, value in values.items() if name != "baseline_oos_score"}
        if isinstance(values, dict)
        else values
        for row, values in state.items()
        if row.rpartition(" ")[2] not in edited
    }
