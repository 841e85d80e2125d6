"""Tunes attributed a second, ten trials each, against one bare SQL statement without baselines."""

import time
from collections.abc import Iterator
from functools import partial

from benchmarks.figures import Figure, in_turn, show
from benchmarks.synthetic import STATEMENTS, WORKSPACE_ID, fresh_copy, template
from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.storage.embedded import SUPERUSER
from kb_pipeline.storage.postgres import connect

BATCH_SIZES = (1_000, 100)


def attributed_per_second(database: str, tunes: int, batch_size: int) -> float:
    """Return the rate of one backfill on a fresh copy."""
    request = AttributionRequest(workspace_id=WORKSPACE_ID, limit=None, batch_size=batch_size)
    with fresh_copy(database) as url, connect(url) as connection:
        begin = time.perf_counter()
        report = backfill_attribution(connection, request, dry_run=False)
        seconds = time.perf_counter() - begin
    assert report.updated == report.scanned == tunes, report
    return report.updated / seconds


def bare_per_second(database: str, tunes: int) -> float:
    """Return the rate of the bare statement on a fresh copy."""
    bare = fresh_copy(database, role=SUPERUSER)  # no row-level security: what is compared with
    with bare as url, connect(url, timeouts=False) as connection:
        begin = time.perf_counter()
        updated = connection.execute(STATEMENTS["bare_attribution"], {"workspace_id": WORKSPACE_ID}).rowcount
        seconds = time.perf_counter() - begin
    assert updated == tunes, updated
    return updated / seconds


def figures(tunes: int = 50_000, repeats: int = 3) -> Iterator[Figure]:
    """Yield the rate of each batch size beside the bare statement's."""
    with template(tunes=tunes) as database:
        bare, *own = in_turn(
            repeats,
            partial(bare_per_second, database, tunes),
            *(partial(attributed_per_second, database, tunes, size) for size in BATCH_SIZES),
        )
    beside = "one bare SQL statement, no baselines"
    for size, runs in zip(BATCH_SIZES, own, strict=True):
        yield Figure(f"attribution with baselines, {size:,} a commit", "tunes/s", runs, beside, bare)


if __name__ == "__main__":
    show(figures())
