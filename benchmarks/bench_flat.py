"""Candidacy over growing tables: seconds per row and the memory of this process, which must stay flat."""

import argparse
import resource
import subprocess
import sys
import time

from benchmarks.synthetic import WORKSPACE_ID, fresh_copy, template
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.storage.postgres import connect

SIZES = (10_000, 100_000, 1_000_000)


def measure(rows: int) -> None:
    """Print rows, seconds and peak memory of one backfill in this process."""
    request = CandidacyRequest(workspace_id=WORKSPACE_ID, limit=None, batch_size=1_000)
    with template(runs=rows) as database, fresh_copy(database) as url, connect(url) as connection:
        begin = time.perf_counter()
        report = backfill_candidacy(connection, request, dry_run=False)
        seconds = time.perf_counter() - begin
    assert report.scanned == rows, report
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    per_row = seconds / rows * 1e6
    print(f"{rows:>9,} rows: {seconds:6.1f} s, {per_row:5.1f} microseconds a row, peak {peak_mb:.0f} MB")


def main() -> None:
    """Measure each size in a process of its own, because peak memory never falls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int)
    arguments = parser.parse_args()
    if arguments.rows:
        measure(arguments.rows)
        return
    for rows in SIZES:
        subprocess.run([sys.executable, "-m", "benchmarks.bench_flat", "--rows", str(rows)], check=True)


if __name__ == "__main__":
    main()
