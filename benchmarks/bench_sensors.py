"""Ticks of the sensor completed_tunes: over a backlog, over tunes that lack a regime, with nothing new."""

import logging
import os
import time
from collections.abc import Iterator

import dagster as dg

from benchmarks.figures import Figure, show
from benchmarks.synthetic import fresh_copy, template
from kb_pipeline.orchestration.resources import Database
from kb_pipeline.orchestration.sensors import completed_tunes
from kb_pipeline.storage.embedded import APP, SUPERUSER
from kb_pipeline.storage.postgres import connect


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


def ticks_over(tunes: int, *, regimes: bool, repeats: int) -> Iterator[Figure]:
    """Yield the ticks over as many tunes that wait, with or without the regime they wait for."""
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
        looks = [tick(instance, None) for _ in range(repeats)]
        requests = len(looks[-1][1].run_requests or ())
        assert requests <= 100, requests
        what = f"{tunes:,} tunes that wait {'with' if regimes else 'without'} a regime"
        yield Figure(f"a tick over {what}, {requests} requests", "s", [it[0] for it in looks])
        if not regimes:
            cursor = _cursor_at_rest(instance)
            again = [tick(instance, cursor) for _ in range(repeats)]
            assert "nothing was written" in str(again[-1][1].skip_reason)
            yield Figure(f"the tick after it over {what}, nothing written", "s", [it[0] for it in again])


def _cursor_at_rest(instance: dg.DagsterInstance) -> str | None:
    """Tick until nothing is new: Postgres counts what was written within a second."""
    cursor, deadline = None, time.monotonic() + 10
    while time.monotonic() < deadline:
        looked = tick(instance, cursor)[1]
        if "nothing was written" in str(looked.skip_reason):
            return cursor
        cursor = looked.cursor
    raise TimeoutError("ticks found something new for 10 s, though nothing was written")


def figures(backlog: int = 100_000, left: int = 5_000, repeats: int = 5) -> Iterator[Figure]:
    """Yield every kind of tick."""
    before = os.environ.get("KB_DATABASE_URL")
    try:
        yield from ticks_over(backlog, regimes=True, repeats=repeats)
        yield from ticks_over(left, regimes=False, repeats=repeats)
    finally:
        os.environ.pop("KB_DATABASE_URL", None)
        os.environ.update({"KB_DATABASE_URL": before} if before else {})


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    show(figures())
