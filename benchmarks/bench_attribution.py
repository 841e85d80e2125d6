"""Tunes attributed a second, ten trials each, against one bare SQL statement without baselines."""

import argparse
import statistics
import time

from benchmarks.synthetic import STATEMENTS, WORKSPACE_ID, fresh_copy, template
from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.storage.postgres import connect


def attributed_per_second(database: str, batch_size: int) -> float:
    """Return the rate of one backfill on a fresh copy."""
    request = AttributionRequest(workspace_id=WORKSPACE_ID, limit=None, batch_size=batch_size)
    with fresh_copy(database) as url, connect(url) as connection:
        begin = time.perf_counter()
        report = backfill_attribution(connection, request, dry_run=False)
        seconds = time.perf_counter() - begin
    assert report.updated == report.scanned > 0, report
    return report.updated / seconds


def bare_per_second(database: str) -> float:
    """Return the rate of the bare statement on a fresh copy."""
    with fresh_copy(database) as url, connect(url, timeouts=False) as connection:
        begin = time.perf_counter()
        updated = connection.execute(STATEMENTS["bare_attribution"], {"workspace_id": WORKSPACE_ID}).rowcount
        return updated / (time.perf_counter() - begin)


def main() -> None:
    """Print the rate of the bare statement and of each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tunes", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with template(tunes=arguments.tunes) as database:
        bare = [bare_per_second(database) for _ in range(arguments.runs)]
        spread = f"(from {min(bare):,.0f} to {max(bare):,.0f})"
        print(f"bare statement: median {statistics.median(bare):,.0f} tunes/s {spread}")
        for batch_size in (1_000, 100):
            rates = [attributed_per_second(database, batch_size) for _ in range(arguments.runs)]
            print(
                f"batch {batch_size}: median {statistics.median(rates):,.0f} tunes/s "
                f"(from {min(rates):,.0f} to {max(rates):,.0f})"
            )


if __name__ == "__main__":
    main()
