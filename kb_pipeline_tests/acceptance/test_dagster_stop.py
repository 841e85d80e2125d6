"""The web page goes with the terminal it was started from."""

import signal
from pathlib import Path

import psutil

from kb_pipeline.storage.postgres import ensure_database
from kb_pipeline_tests.acceptance.served import dagster_environment, start_serving, stop_serving, wait_until


def test_a_terminal_that_hangs_up_during_the_start_leaves_nothing(server: str, tmp_path: Path) -> None:
    url = ensure_database(server, "hang_up")
    process = start_serving(dagster_environment(server, tmp_path, url, "hang_up_dagster"))
    family = psutil.Process(process.pid)
    wait_until(lambda: len(family.children(recursive=True)) >= 2, "Dagster to start its own processes", 60)
    stop_serving(process, signal.SIGHUP, processes=2)
