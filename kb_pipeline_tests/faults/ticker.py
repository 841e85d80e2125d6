"""A process that does what Dagster's daemon does every half minute: look for lost runs and completed tunes,
run what is requested, keep the cursor. Each tick is forked from it, so that it may be killed.

One JSON object a line comes in (`call`: the call to the database at which the tick sends itself a signal,
or null; `number`: the signal, `only_writer`: whether calls of the writing thread alone count), one goes out
(`status`: the exit code, negative for a signal; `calls` and `of_writer`: calls made by one that ended). Of a
tick that stopped itself its `pid` goes out first.
"""

import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import dagster._core.instance.factory
import dagster._core.secrets.env_file
import dagster._core.storage.base_storage
import dagster._core.storage.event_log.sqlite
import dagster._core.storage.legacy_storage
import dagster._core.storage.root
import dagster._core.storage.runs.sqlite
import dagster._core.storage.schedules.sqlite
import matplotlib.backends.backend_svg
import matplotlib.figure
import upath.implementations.local

from kb_pipeline.definitions import build_definitions
from kb_pipeline.orchestration import sensor_decisions
from kb_pipeline.orchestration.resources import Database
from kb_pipeline.orchestration.sensors import completed_tunes, lost_runs
from kb_pipeline_tests.faults.worker import Calls, Plan, count_calls

RUN_KEY = "dagster/run_key"

# Where there is no power loss but a kill a moment ago, a run without a session is lost at once.
sensor_decisions.SILENCE_SECONDS = sensor_decisions.START_SECONDS = -1

JOB = build_definitions().resolve_implicit_global_asset_job_def()
LOADED = (matplotlib.figure, matplotlib.backends.backend_svg, dagster._core, upath.implementations.local)
"""A run draws and an instance stores; what they need is loaded here, and not by each tick for 0.8 s."""


def main() -> None:
    """Tick as often as a line comes in."""
    gc.freeze()  # what a tick never looks through it need not copy either
    home = Path(os.environ["DAGSTER_HOME"])
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = _tick_in_a_process(json.loads(line), home)
            finally:
                os._exit(status)
        _, ended = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSTOPPED(ended):
            _tell(pid=pid)
            _, ended = os.waitpid(pid, 0)
        made = (home / "calls").read_text() if os.WIFEXITED(ended) else "0 0"
        calls, of_writer = map(int, made.split())
        _tell(status=os.waitstatus_to_exitcode(ended), calls=calls, of_writer=of_writer)


def _tell(**facts: int) -> None:
    print(json.dumps(facts), flush=True)  # noqa: T201


def _tick_in_a_process(asked: dict[str, Any], home: Path) -> int:
    calls = Calls()
    number = signal.Signals(asked["number"])
    count_calls(calls, Plan(call=asked["call"], number=number, only_writer=asked["only_writer"]))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        tick(instance, home / "cursor")
    (home / "calls").write_text(f"{calls.all} {calls.of_writer}")
    return 0


def tick(instance: dg.DagsterInstance, cursor: Path) -> None:
    """Evaluate both sensors and run what is requested; the cursor is kept when all of it was."""
    resources: dict[str, Any] = {"database": Database()}
    lost_runs(dg.build_sensor_context(instance=instance, sensor_name="lost_runs", resources=resources))
    result = completed_tunes(
        dg.build_sensor_context(
            instance=instance,
            cursor=cursor.read_text() if cursor.exists() else None,
            sensor_name="completed_tunes",
            resources=resources,
        )
    )
    assert isinstance(result, dg.SensorResult)
    for partitions in result.dynamic_partitions_requests or ():
        instance.add_dynamic_partitions(partitions.partitions_def_name, list(partitions.partition_keys))
    for request in result.run_requests or ():
        if not instance.get_runs(dg.RunsFilter(tags={RUN_KEY: str(request.run_key)})):
            JOB.execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey("tune_regime_attribution")],
                partition_key=request.partition_key,
                tags={**request.tags, RUN_KEY: str(request.run_key)},
                raise_on_error=False,
            )
    cursor.write_text(result.cursor or "")


if __name__ == "__main__":
    main()
