"""Ticks of the sensor completed_tunes: over a backlog, over tunes that lack a regime, with nothing new."""

import argparse
import logging
import os
import statistics
import time
import warnings

import dagster as dg

from benchmarks.synthetic import fresh_copy, template
from kb_pipeline.orchestration.resources import Database
from kb_pipeline.orchestration.sensors import completed_tunes
from kb_pipeline.storage.embedded import APP, SUPERUSER
from kb_pipeline.storage.postgres import connect

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)


def tick(instance: dg.DagsterInstance, cursor: str | None) -> tuple[float, dg.SensorResult]:
    """Return the seconds of a tick and what it answered."""
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        sensor_name="completed_tunes",
        resources={"database": Database()},
    )
    begin = time.perf_counter()
    result = completed_tunes(context)
    assert isinstance(result, dg.SensorResult)
    return time.perf_counter() - begin, result


def measure(tunes: int, *, regimes: bool, ticks: int) -> None:
    """Print the ticks over as many tunes that wait, with or without the regime they wait for."""
    with (
        template(tunes=tunes) as database,
        fresh_copy(database, role=SUPERUSER) as url,
        dg.instance_for_test() as instance,
    ):
        os.environ["KB_DATABASE_URL"] = url.replace(f"//{SUPERUSER}@", f"//{APP}@")
        with connect(url, timeouts=False) as connection:
            if not regimes:
                connection.execute("UPDATE backtest_tune_runs SET metrics_oos = metrics_oos - 'regime'")
                connection.execute("VACUUM ANALYZE backtest_tune_runs")
            connection.execute("SELECT pg_stat_force_next_flush()")
        looks = [tick(instance, None) for _ in range(ticks)]
        seconds, last = statistics.median(it[0] for it in looks), looks[-1][1]
        requests = len(last.run_requests or ())
        print(
            f"{tunes} tunes {'with' if regimes else 'without'} a regime: {seconds:.3f} s, {requests} requests"
        )
        if not regimes:
            # Counters follow within a second; the tick after that reads no table.
            time.sleep(2)
            cursor = tick(instance, None)[1].cursor
            again = [tick(instance, cursor) for _ in range(ticks)]
            assert "nothing was written" in str(again[-1][1].skip_reason)
            print(f"  the tick after it, nothing written: {statistics.median(it[0] for it in again):.3f} s")


def main() -> None:
    """Print every tick."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backlog", type=int, default=100_000)
    parser.add_argument("--left", type=int, default=5_000)
    parser.add_argument("--ticks", type=int, default=5)
    arguments = parser.parse_args()
    measure(arguments.backlog, regimes=True, ticks=arguments.ticks)
    measure(arguments.left, regimes=False, ticks=arguments.ticks)


if __name__ == "__main__":
    main()
