"""Killed in a tick or in the run it began, the sensor attributes every tune all the same, and each once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kb_pipeline.rules import BATCH_SIZE_ROWS, BackfillKind
from kb_pipeline_tests.conftest import make_home
from kb_pipeline_tests.faults import world
from kb_pipeline_tests.faults.harness import CYCLES, Scene
from kb_pipeline_tests.faults.people import but_for, edit_rows, halves, some_rows, unsettled

KILLS = -(-CYCLES // 10)
KILLS_BESIDE_PEOPLE = KILLS if CYCLES > 50 else 3
"""Each takes three ticks; a soak has as many of these as of the others."""
TICKS_TO_MEND = 2
EDITED_ROWS = 12
LATEST_COMMIT_S = 0.02
LATEST_KILL_S = 0.15
"""After this long a tick that was stopped has as a rule written all there was."""
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
        return self._ask(call, signal.SIGKILL, only_writer=False)

    def stop_in_tick(self, call: int) -> int:
        """Tick up to a call of the thread that writes, and stop there; return its process."""
        return self._ask(call, signal.SIGSTOP, only_writer=True)["pid"]

    def _ask(self, call: int | None, number: signal.Signals, *, only_writer: bool) -> dict[str, int]:
        assert self._process.stdin
        asked = {"call": call, "number": number, "only_writer": only_writer}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self.ended()

    def ended(self) -> dict[str, int]:
        """Return what the tick that was asked for last came to."""
        assert self._process.stdout
        said: dict[str, int] = json.loads(self._process.stdout.readline())
        return said

    def remember(self) -> None:
        """Put what stands in DAGSTER_HOME by, for `forget`."""
        shutil.copytree(self._home, self._home.with_suffix(".before"))

    def forget(self) -> None:
        """Begin with the DAGSTER_HOME that was put by; an empty one takes seconds to fill with tables."""
        shutil.rmtree(self._home)
        shutil.copytree(self._home.with_suffix(".before"), self._home)


@pytest.fixture
def ticker(stage: Scene, tmp_path: Path) -> Iterator[Ticker]:
    home = make_home() / "dagster"
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
    shutil.rmtree(home.parent)


def _begun(stage: Scene, ticker: Ticker) -> dict[str, int]:
    """Tick once over an empty DAGSTER_HOME and once undisturbed over one workspace; return what that took."""
    stage.connection.execute("UPDATE workspaces SET is_active = false")
    assert ticker.tick()["status"] == 0, "over an empty DAGSTER_HOME"
    ticker.remember()
    # The other workspace has tunes as well; only one of the two is to be looked after here.
    stage.connection.execute("UPDATE workspaces SET is_active = (slug = 'ours')")
    # Counted now and not within the second after it, as for a sensor that ticks every half minute.
    stage.connection.execute("SELECT pg_stat_force_next_flush()")
    return ticker.tick()


def test_killed_in_a_tick_the_sensor_attributes_every_tune_within_two_more(
    stage: Scene, ticker: Ticker, undisturbed: Any
) -> None:
    expected = undisturbed(BackfillKind.ATTRIBUTION)
    calls = _begun(stage, ticker)["calls"]
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


def test_what_a_person_does_in_the_midst_of_a_tick_stays_though_it_is_killed(
    stage: Scene, ticker: Ticker, undisturbed: Any
) -> None:
    kind = BackfillKind.ATTRIBUTION
    expected = undisturbed(kind)
    calls = _begun(stage, ticker)["of_writer"]
    for _ in range(KILLS_BESIDE_PEOPLE):
        stage.begin()
        ticker.forget()
        at = stage.chance.randint(1, int(0.9 * calls))
        pid = ticker.stop_in_tick(at)
        at_once, soon = halves(some_rows(stage.connection, kind, stage.chance, EDITED_ROWS))
        edits = edit_rows(stage.connection, kind, stage.chance, at_once)
        with stage.connection.transaction():  # the tick may come to wait for these
            edits |= edit_rows(stage.connection, kind, stage.chance, soon)
            os.kill(pid, signal.SIGCONT)
            time.sleep(stage.chance.uniform(0, LATEST_COMMIT_S))
        time.sleep(stage.chance.uniform(0, LATEST_KILL_S))
        with suppress(ProcessLookupError):  # it was done before
            os.kill(pid, signal.SIGKILL)
        assert ticker.ended()["status"] in (0, -signal.SIGKILL), at
        stage.wait_alone()
        stage.keeps_its_promises(BATCH_SIZE_ROWS)
        assert {ticker.tick()["status"] for _ in range(TICKS_TO_MEND)} == {0}
        stage.keeps_its_promises(BATCH_SIZE_ROWS)
        assert unsettled(stage.connection, edits) == [], at
        edited = {str(row_id) for row_id in edits}
        assert but_for(edited, world.state(stage.connection)) == but_for(edited, expected.state), at
        assert stage.left_to_do(kind) == 0
