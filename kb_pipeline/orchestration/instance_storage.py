"""Where Dagster keeps runs and events: its own Postgres storage, told to hold on and to write together.

Dagster's storage connects anew for each of its statements, and stores the events that announce the
partitions of a run one by one: 6 s for 500 of them, before the first has begun. The tables are Dagster's,
and what stands in them is the same. dagster.yaml names the class.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from dagster import DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import pg_url_from_config

HELD_CONNECTION_SECONDS: Final = 1
"""Held no longer than this, no connection is taken up again after a restart of the server."""

MAX_CONNECTIONS: Final = 10

STATEMENT_TIMEOUT_MS: Final = 60_000
"""Writing an event takes a thousandth of this."""


class EventLog(PostgresEventLogStorage):
    """Dagster's event log, which stores announcements of one asset's partitions in one statement."""

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events; those of one kind that are about one asset together."""
        for (kind, _), alike in groupby(events, key=lambda it: (_kind(it), it.get_dagster_event().asset_key)):
            together = list(alike)
            if kind == DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
                self._store_announcements(together)
            else:
                super().store_event_batch(together)

    def _store_announcements(self, events: Sequence[EventLogEntry]) -> None:
        """Store announcements as the storage stores materializations."""
        insert = self.prepare_insert_event_batch(events)
        with self._connect() as connection:
            returned = connection.execute(insert.returning(insert.table.c.id)).fetchall()
        with self.index_transaction() as connection:
            self._store_asset_event(connection, events[-1], returned[-1][0])


def _kind(event: EventLogEntry) -> DagsterEventType:
    return event.get_dagster_event().event_type


class InstanceStorage(DagsterPostgresStorage):
    """Dagster's storage in one Postgres database, with its connections held for a moment."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(postgres_url, inst_data=inst_data)
        self._event_log_storage = EventLog(postgres_url)
        for storage in (self._event_log_storage, self._run_storage, self._schedule_storage):
            storage.optimize_for_webserver(STATEMENT_TIMEOUT_MS, HELD_CONNECTION_SECONDS, MAX_CONNECTIONS)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> "InstanceStorage":
        """Return the storage that dagster.yaml describes."""
        return cls(pg_url_from_config(config_value), inst_data)
