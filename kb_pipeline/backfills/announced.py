"""Tell the event log when a backfill begins and how it ends, whoever asked for it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from kb_pipeline.errors import AlreadyRunningError
from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.events import Event, tell


@contextmanager
def announced(kind: BackfillKind, workspace_id: UUID, *, dry_run: bool) -> Iterator[dict[str, Any]]:
    """Tell of a backfill's beginning and end.

    The block puts what is to be said of its result into the dictionary; `interrupted` names a signal.
    """
    facts = {"kind": kind, "workspace_id": workspace_id, "dry_run": dry_run}
    result: dict[str, Any] = {}
    tell(Event.BACKFILL_STARTED, **facts)
    begin = time.monotonic()
    try:
        yield result
    except BaseException as error:
        ending = Event.BACKFILL_REFUSED if isinstance(error, AlreadyRunningError) else Event.BACKFILL_FAILED
        tell(ending, **facts, seconds=_since(begin), error=type(error).__name__, message=str(error))
        raise
    ending = Event.BACKFILL_INTERRUPTED if result.get("interrupted") else Event.BACKFILL_COMPLETED
    tell(ending, **facts, seconds=_since(begin), **result)


def _since(begin: float) -> float:
    return round(time.monotonic() - begin, 3)
