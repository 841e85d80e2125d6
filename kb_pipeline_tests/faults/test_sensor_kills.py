"""Killed in a tick or in the run it began, the sensor attributes every tune all the same, and each once."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kb_pipeline.rules import BATCH_SIZE_ROWS, BackfillKind
from kb_pipeline_tests.faults import world
from kb_pipeline_tests.faults.harness import CYCLES, Scene

KILLS = -(-CYCLES // 10)
TICKS_TO_MEND = 2
INSTANCE = """
telemetry: {{enabled: false}}
compute_logs: {{module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}}
event_log_storage:
  module: dagster._core.storage.event_log
  class: ConsolidatedSqliteEventLogStorage
  config: {{base_dir: "{home}/events"}}
"""
"""One file of events for all runs: Dagster's default makes tables anew for each, which takes a second."""


class Ticker:
    """The process that ticks, over one database and an instance of its own."""

    def __init__(self, process: "subprocess.Popen[str]", home: Path) -> None:
        self._process, self._home = process, home

    def tick(self, call: int | None = None) -> dict[str, int]:
        """Tick once, killed at a call to the database where one is given."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"call": call}) + "\n")
        self._process.stdin.flush()
        ended: dict[str, int] = json.loads(self._process.stdout.readline())
        return ended

    def remember(self) -> None:
        """Put what stands in DAGSTER_HOME by, for `forget`."""
        shutil.copytree(self._home, self._home.with_suffix(".before"))

    def forget(self) -> None:
        """Begin with the DAGSTER_HOME that was put by; an empty one takes seconds to fill with tables."""
        shutil.rmtree(self._home)
        shutil.copytree(self._home.with_suffix(".before"), self._home)


@pytest.fixture
def ticker(stage: Scene, tmp_path: Path) -> Iterator[Ticker]:
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text(INSTANCE.format(home=home))
    environment = {**os.environ, "KB_DATABASE_URL": stage.url, "DAGSTER_HOME": str(home)}
    command = [sys.executable, "-W", "ignore", "-m", "kb_pipeline_tests.faults.ticker"]
    pipe = subprocess.PIPE
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=log, text=True) as process,
    ):
        yield Ticker(process, home)
        assert process.stdin
        process.stdin.close()


def test_killed_in_a_tick_the_sensor_attributes_every_tune_within_two_more(
    stage: Scene, ticker: Ticker, undisturbed: Any
) -> None:
    expected = undisturbed(BackfillKind.ATTRIBUTION)
    stage.connection.execute("UPDATE workspaces SET is_active = false")
    assert ticker.tick()["status"] == 0, "over an empty DAGSTER_HOME"
    ticker.remember()
    # The other workspace has tunes as well; only one of the two is to be looked after here.
    stage.connection.execute("UPDATE workspaces SET is_active = (slug = 'ours')")
    calls = ticker.tick()["calls"]
    assert world.state(stage.connection) == expected.state
    for kill in range(KILLS):
        stage.begin()
        ticker.forget()
        # Two ticks do not make quite as many calls, and one that ended has not been killed.
        at = int(1 + (kill + stage.chance.random()) * 0.9 * calls / KILLS)
        assert ticker.tick(at)["status"] == -9, at
        stage.wait_alone()
        stage.keeps_its_promises(BATCH_SIZE_ROWS)
        assert {ticker.tick()["status"] for _ in range(TICKS_TO_MEND)} == {0}
        stage.keeps_its_promises(BATCH_SIZE_ROWS)
        assert world.state(stage.connection) == expected.state, f"killed at call {at} of {calls}"
        assert stage.written(BackfillKind.ATTRIBUTION) == expected.written
