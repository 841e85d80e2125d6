"""Candidacy over many runs, against the one bare SQL statement that does the same work."""

import argparse
import statistics
import time

from benchmarks.synthetic import STATEMENTS, WORKSPACE_ID, fresh_copy, template
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.storage.postgres import connect


def bare_statement(database: str) -> tuple[float, int]:
    """Return seconds and rows of the bare statement on a fresh copy."""
    with fresh_copy(database) as url, connect(url, timeouts=False) as connection:
        begin = time.perf_counter()
        changed = connection.execute(STATEMENTS["bare_candidacy"], {"workspace_id": WORKSPACE_ID}).rowcount
        return time.perf_counter() - begin, changed


def ours(database: str, batch_size: int) -> tuple[float, int]:
    """Return seconds and rows of the backfill on a fresh copy."""
    request = CandidacyRequest(workspace_id=WORKSPACE_ID, limit=None, batch_size=batch_size)
    with fresh_copy(database) as url, connect(url) as connection:
        begin = time.perf_counter()
        report = backfill_candidacy(connection, request, dry_run=False)
        return time.perf_counter() - begin, report.updated


def main() -> None:
    """Print the ratio of each batch size to the bare statement, pair by pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    with template(runs=arguments.rows) as database:
        ratios: dict[int, list[float]] = {1_000: [], 100: []}
        for pair in range(arguments.pairs):
            bare_seconds, bare_rows = bare_statement(database)
            print(f"pair {pair + 1}: bare statement {bare_seconds:.1f} s, {bare_rows} rows")
            for batch_size, found in ratios.items():
                seconds, rows = ours(database, batch_size)
                assert rows == bare_rows, (rows, bare_rows)
                found.append(seconds / bare_seconds)
                print(f"pair {pair + 1}: batch {batch_size}: {seconds:.1f} s, ratio {found[-1]:.2f}")
        for batch_size, found in ratios.items():
            print(f"batch {batch_size}: median {statistics.median(found):.2f} times the bare statement")


if __name__ == "__main__":
    main()
