"""The figures an operator watches, in Prometheus's text format. Statements: `sql/metrics.sql`.

All of them are read from the database, so they are the same whichever process did the work, and a
process that was killed has not taken its figures with it. What is wrong is doctor.py's to say.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, LiteralString, NamedTuple

from kb_pipeline.sql import statement
from kb_pipeline.storage.doctor import open_backfills
from kb_pipeline.storage.orchestration import of_each_workspace
from kb_pipeline.storage.postgres import Connection


class Family(NamedTuple):
    """One metric: its name, type, what it means, its labels, and the statement whose rows are its samples.

    A row, of one workspace at a time, holds the labels' values after the workspace and then the sample.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    source: LiteralString


_KIND: Final = ("workspace", "kind")

FAMILIES: Final = (
    Family(
        *("kb_backfills_total", "counter", "Real backfills by how they ended."),
        *((*_KIND, "status"), "metrics.backfills"),
    ),
    Family(
        *("kb_backfill_rows_total", "counter", "Rows that backfills scanned, wrote and left as conflicts."),
        *((*_KIND, "outcome"), "metrics.rows"),
    ),
    Family(
        *("kb_backfill_skipped_rows_total", "counter", "Rows that backfills left alone, by reason."),
        *((*_KIND, "reason"), "metrics.skipped"),
    ),
    Family(
        *("kb_backfill_last_completed_timestamp_seconds", "gauge", "When a backfill last went through."),
        *(_KIND, "metrics.completed"),
    ),
)


def exposition(connection: Connection) -> str:
    """Return all metrics as text, one sample a line."""
    lines = ["# HELP kb_up The database answers and has its tables.", "# TYPE kb_up gauge", "kb_up 1"]
    for family in FAMILIES:
        lines += _family(family, _rows(connection, family.source))
    waiting = _rows(connection, "doctor.waiting_tunes")
    tunes = Family("kb_tunes_waiting", "gauge", "Completed tunes without their regime.", ("workspace",), "")
    lines += _family(tunes, ((slug, count) for slug, count, _ in waiting if count))
    oldest = Family(
        "kb_tunes_oldest_waiting_seconds", "gauge", "Age of the oldest of them.", ("workspace",), ""
    )
    lines += _family(oldest, ((slug, age) for slug, _, age in waiting if age is not None))
    running, left = open_backfills(connection)
    blocked = connection.execute(statement("doctor.blocked_sessions")).fetchall()
    for name, text, value in (
        ("kb_backfills_running", "Backfills that run now.", running),
        ("kb_backfills_left_running", "Ledger rows that a dead process left running.", len(left)),
        ("kb_sessions_blocked", "Sessions that wait for another one's lock.", len(blocked)),
    ):
        lines += _family(Family(name, "gauge", text, (), ""), [(value,)])
    return "\n".join(lines) + "\n"


def _rows(connection: Connection, name: LiteralString) -> list[tuple[Any, ...]]:
    return [(workspace.slug, *row) for workspace, row in of_each_workspace(connection, name)]


def _family(family: Family, rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    yield f"# HELP {family.name} {family.help}"
    yield f"# TYPE {family.name} {family.kind}"
    for *values, sample in rows:
        pairs = zip(family.labels, values, strict=True)
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
        yield f"{family.name}{f'{{{labels}}}' if labels else ''} {sample}"


def _escaped(value: object) -> str:
    return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
