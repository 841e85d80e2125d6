"""Candidacy over many runs, against the one bare SQL statement that does the same work, and against a
loop that reads, decides and updates row by row.
"""

import time
from collections.abc import Iterator
from functools import partial

from benchmarks.alternatives.row_by_row import mark_candidates
from benchmarks.figures import Figure, in_turn, show
from benchmarks.synthetic import STATEMENTS, WORKSPACE_ID, fresh_copy, template
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.storage.embedded import SUPERUSER
from kb_pipeline.storage.postgres import connect

BATCH_SIZES = (1_000, 100)


def bare_statement(database: str, changed: set[int]) -> float:
    """Return the seconds of the bare statement on a fresh copy; note the rows it changed."""
    bare = fresh_copy(database, role=SUPERUSER)  # no row-level security: what is compared with
    with bare as url, connect(url, timeouts=False) as connection:
        begin = time.perf_counter()
        changed.add(connection.execute(STATEMENTS["bare_candidacy"], {"workspace_id": WORKSPACE_ID}).rowcount)
        return time.perf_counter() - begin


def ours(database: str, batch_size: int, changed: set[int]) -> float:
    """Return the seconds of the backfill on a fresh copy; note the rows it changed."""
    request = CandidacyRequest(workspace_id=WORKSPACE_ID, limit=None, batch_size=batch_size)
    with fresh_copy(database) as url, connect(url) as connection:
        begin = time.perf_counter()
        report = backfill_candidacy(connection, request, dry_run=False)
        seconds = time.perf_counter() - begin
    changed.add(report.updated)
    return seconds


def row_by_row(database: str, changed: set[int]) -> float:
    """Return the seconds of the loop on a fresh copy; note the rows it changed."""
    with fresh_copy(database, role=SUPERUSER) as url:
        begin = time.perf_counter()
        changed.add(mark_candidates(url, WORKSPACE_ID))
        return time.perf_counter() - begin


def figures(rows: int = 1_000_000, looped_rows: int = 20_000, repeats: int = 3) -> Iterator[Figure]:
    """Yield the time of each batch size beside the bare statement, and beside the loop on fewer rows."""
    changed: set[int] = set()
    with template(runs=rows) as database:
        bare, *own = in_turn(
            repeats,
            partial(bare_statement, database, changed),
            *(partial(ours, database, size, changed) for size in BATCH_SIZES),
        )
    assert len(changed) == 1, changed
    for size, runs in zip(BATCH_SIZES, own, strict=True):
        yield Figure(
            f"candidacy of {rows:,} runs, {size:,} a commit", "s", runs, "one bare SQL statement", bare
        )
    changed = set()
    with template(runs=looped_rows) as database:
        own_seconds, looped = in_turn(
            repeats, partial(ours, database, 100, changed), partial(row_by_row, database, changed)
        )
    assert len(changed) == 1, changed
    what = f"candidacy of {looped_rows:,} runs, 100 a commit"
    yield Figure(what, "s", own_seconds, "an asynchronous loop, row by row", looped)


if __name__ == "__main__":
    show(figures())
