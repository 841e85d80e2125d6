"""The event log: one JSON object a line, for machines, wherever KB_LOG says.

Holds the closed list of events and how a line is written. Who tells of what is each module's own;
reports and progress for people are not events. The line is ASCII, so nothing in it can move a
terminal's cursor, and it is written at once, so lines of several processes do not mix.
"""

import json
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

VARIABLE: Final = "KB_LOG"
"""A file to append to, or - for stderr; without it nothing is written."""


_given_up: Final[set[str]] = set()
"""Logs that could not be written to the last time, of which a word was said then."""


class Event(StrEnum):
    """All that is ever told. A reader may rely on the list and on `at`, `event` and `pid` in each line."""

    BACKFILL_STARTED = "backfill_started"
    BACKFILL_COMPLETED = "backfill_completed"
    BACKFILL_INTERRUPTED = "backfill_interrupted"
    BACKFILL_FAILED = "backfill_failed"
    BACKFILL_REFUSED = "backfill_refused"
    BATCH_PUT_OFF = "batch_put_off"
    PRICE_FILE_REFUSED = "price_file_refused"
    SENSOR_LOOKED = "sensor_looked"
    ALERT_SENT = "alert_sent"
    MIGRATION_APPLIED = "migration_applied"
    SERVER_STARTED = "server_started"
    SERVER_STOPPED = "server_stopped"


def tell(event: Event, **facts: object) -> None:
    """Append one event with its facts. A log that cannot be written to stops no work."""
    where = os.environ.get(VARIABLE, "").strip()
    if not where:
        return
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = json.dumps({"at": at, "event": event, "pid": os.getpid(), **facts}, default=str) + "\n"
    try:
        _append(where, line)
        _given_up.discard(where)
    except OSError as error:
        if where not in _given_up:
            _given_up.add(where)
            found = f"{event} could not be written: {error.strerror}"
            sys.stderr.write(f"{VARIABLE}: {found}. Those after it may be lost too; the work goes on.\n")


def _append(where: str, line: str) -> None:
    if where == "-":
        sys.stderr.write(line)
        return
    file = os.open(where, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, line.encode("ascii"))
    finally:
        os.close(file)
