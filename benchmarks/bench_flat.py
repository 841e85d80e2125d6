"""Candidacy over growing tables: seconds per row and the memory of this process, which must stay flat."""

import argparse
import json
import time
from collections.abc import Iterator, Sequence

from benchmarks.figures import Figure, in_a_process, peak_megabytes, show
from benchmarks.synthetic import WORKSPACE_ID, fresh_copy, template
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.storage.postgres import connect

SIZES = (10_000, 100_000, 1_000_000)


def measure(rows: int) -> tuple[float, float]:
    """Return the microseconds a row of one backfill, and the peak memory of this process in MB."""
    request = CandidacyRequest(workspace_id=WORKSPACE_ID, limit=None, batch_size=1_000)
    with template(runs=rows) as database, fresh_copy(database) as url, connect(url) as connection:
        begin = time.perf_counter()
        report = backfill_candidacy(connection, request, dry_run=False)
        seconds = time.perf_counter() - begin
    assert report.scanned == rows, report
    return seconds / rows * 1e6, peak_megabytes()


def figures(sizes: Sequence[int] = SIZES, repeats: int = 3) -> Iterator[Figure]:
    """Yield time a row and peak memory of each size; a peak never falls, so each run has its own process."""
    for rows in sizes:
        runs = [
            json.loads(in_a_process("benchmarks.bench_flat", "--rows", str(rows))) for _ in range(repeats)
        ]
        micros, megabytes = zip(*runs, strict=True)
        yield Figure(f"candidacy of {rows:,} runs, a row", "microseconds", micros)
        yield Figure(f"candidacy of {rows:,} runs, peak memory", "MB", megabytes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int)
    arguments = parser.parse_args()
    if arguments.rows:
        print(json.dumps(measure(arguments.rows)))
    else:
        show(figures())
