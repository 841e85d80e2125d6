"""Read where parameters were chosen, keep what was found of drift. Statements: `sql/kb_drift_events.sql`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg.rows import dict_row

from kb_pipeline.domain.drift import DriftVerdict, MovedFeature
from kb_pipeline.rules import DRIFT_CONSECUTIVE, MAX_DRIFT_SNAPSHOTS
from kb_pipeline.sql import statement
from kb_pipeline.storage.postgres import Connection

LISTED_EVENTS: Final = 500


class TrainingTune(NamedTuple):
    """A window that a strategy was tuned in; `snapshot` is JSON text. None: nothing names it."""

    strategy_id: str
    strategy: str
    symbol: str | None
    timeframe: str | None
    snapshot: str


class DriftSeries(NamedTuple):
    """What drift is asked of: a strategy on a symbol (upper case) with bars of one length."""

    workspace_id: UUID
    strategy_id: str
    symbol: str
    timeframe: str


class Before(NamedTuple):
    """What an earlier evaluation found."""

    departed: bool
    is_alarm: bool


class WaitingAlert(NamedTuple):
    """An event that somebody is to be told of."""

    id: str
    strategy_id: str
    strategy: str
    symbol: str
    timeframe: str
    first_bar: datetime
    reason: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftEvent:
    """A time at which a market left the regimes that parameters were chosen in.

    `first_bar` is the newest bar when the alarm was raised, `last_bar` the one when it was over, None
    while it lasts. `alerted_at` is None where nobody was told, `alert_error` says why telling failed.
    """

    id: str
    strategy_id: str
    strategy_name: str
    symbol: str
    timeframe: str
    first_bar: datetime
    last_bar: datetime | None
    detected_at: datetime
    reason: str
    regime_key: str
    training_keys: tuple[str, ...]
    distance: float | None
    distance_limit: float | None
    null_percentile: float | None
    moved: tuple[MovedFeature, ...]
    sentence: str
    alerted_at: datetime | None
    alert_error: str | None


def training_tunes(
    connection: Connection, workspace_id: UUID, *, strategy_id: str | None, symbol: str | None
) -> list[TrainingTune]:
    """Return the newest distinct windows each series was tuned in, of one strategy or symbol if given."""
    scope = {
        "workspace_id": workspace_id,
        "strategy_id": strategy_id,
        "symbol": symbol,
        "windows": MAX_DRIFT_SNAPSHOTS,
    }
    with connection.transaction():
        connection.execute(statement("session.allow_long_read"))
        return [
            TrainingTune(*row) for row in connection.execute(statement("kb_drift_events.training"), scope)
        ]


def evaluations_before(connection: Connection, series: DriftSeries, newest_bar: datetime) -> list[Before]:
    """Return what the evaluations just before these bars found, the last one first, two at most."""
    scope = series._asdict() | {"newest_bar": newest_bar, "evaluations": DRIFT_CONSECUTIVE - 1}
    return [Before(*row) for row in connection.execute(statement("kb_drift_events.before"), scope)]


def land_evaluation(
    connection: Connection, series: DriftSeries, newest_bar: datetime, verdict: DriftVerdict
) -> bool:
    """Keep a verdict, in the place of an earlier one over the same newest bar.

    Returns whether no newer bars of the series were looked at before: older ones make no events.
    """
    row = connection.execute(
        statement("kb_drift_events.land_evaluation"), _row(series, newest_bar, verdict)
    ).fetchone()
    assert row is not None  # noqa: S101 - the statement always returns its row
    return bool(row[0])


def open_event(
    connection: Connection, series: DriftSeries, newest_bar: datetime, verdict: DriftVerdict, sentence: str
) -> bool:
    """Begin an event of a series; return whether it is new, False where one lasts already."""
    row = _row(series, newest_bar, verdict) | {"sentence": sentence}
    return connection.execute(statement("kb_drift_events.open_event"), row).fetchone() is not None


def end_event(connection: Connection, series: DriftSeries, newest_bar: datetime) -> bool:
    """End the event of a series that lasts; return whether there was one."""
    scope = series._asdict() | {"newest_bar": newest_bar}
    return connection.execute(statement("kb_drift_events.end_event"), scope).fetchone() is not None


def claim_alert(connection: Connection, workspace_id: UUID, tried: Sequence[str]) -> WaitingAlert | None:
    """Take one event that lasts and nobody was told of, and was not tried; None where there is none."""
    scope = {"workspace_id": workspace_id, "tried": list(tried)}
    row = connection.execute(statement("kb_drift_events.claim_alert"), scope).fetchone()
    return None if row is None else WaitingAlert(*row)


def give_back_alert(connection: Connection, workspace_id: UUID, event_id: str, error: str | None) -> None:
    """Say that an event was not told after all, and why; None where there is nobody to tell."""
    scope = {"workspace_id": workspace_id, "event_id": event_id, "error": error}
    connection.execute(statement("kb_drift_events.give_back_alert"), scope)


def read_events(connection: Connection, workspace_id: UUID, *, rows: int = LISTED_EVENTS) -> list[DriftEvent]:
    """Return the events of a workspace, the newest first."""
    scope = {"workspace_id": workspace_id, "rows": rows}
    with connection.joined(), connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(statement("kb_drift_events.events"), scope).fetchall()
    return [_event(row) for row in found]


def _event(row: dict[str, Any]) -> DriftEvent:
    moved = tuple(MovedFeature(**it) for it in row.pop("moved"))
    return DriftEvent(moved=moved, training_keys=tuple(row.pop("training_keys")), **row)


def _row(series: DriftSeries, newest_bar: datetime, verdict: DriftVerdict) -> dict[str, Any]:
    moved = json.dumps([it._asdict() for it in verdict.moved], allow_nan=False)
    facts = asdict(verdict)
    return series._asdict() | {
        "newest_bar": newest_bar,
        "reason": str(verdict.reason),
        "is_alarm": verdict.is_alarm,
        "regime_key": verdict.key_now,
        "training_keys": list(verdict.keys_then),
        "distance_limit": verdict.limit,
        "moved": moved,
        "training_snapshots": verdict.snapshots,
        **{name: facts[name] for name in ("departed", "key_share", "distance", "null_percentile", "seed")},
    }
