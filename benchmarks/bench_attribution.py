"""Tunes attributed a second, ten trials each, baselines included."""

import argparse
import statistics
import time

from benchmarks.synthetic import WORKSPACE_ID, fresh_copy, template
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


def main() -> None:
    """Print the rate for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tunes", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with template(tunes=arguments.tunes) as database:
        for batch_size in (1_000, 100):
            rates = [attributed_per_second(database, batch_size) for _ in range(arguments.runs)]
            print(
                f"batch {batch_size}: median {statistics.median(rates):,.0f} tunes/s "
                f"(from {min(rates):,.0f} to {max(rates):,.0f})"
            )


if __name__ == "__main__":
    main()
