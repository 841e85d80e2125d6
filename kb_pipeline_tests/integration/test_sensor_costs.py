"""What a tick of the sensor costs the database: one indexed query a workspace, none where nothing is new."""

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from kb_pipeline.orchestration.resources import Database
from kb_pipeline.orchestration.sensors import completed_tunes
from kb_pipeline.sql import statement
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.builders import add_trial, add_tune
from kb_pipeline_tests.conftest import Workspace


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as found:
        yield found


def _tick(instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, sensor_name="completed_tunes", resources={"database": Database()}
    )
    found = completed_tunes(context)
    assert isinstance(found, dg.SensorResult)
    return found


def test_a_tick_reads_no_tune_that_was_left_until_something_is_written(
    connection: Connection, workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    run_ids = [
        add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0, regime=None)
        for _ in range(3)
    ]
    connection.execute(
        "INSERT INTO backtest_tunes"
        " (workspace_id, strategy_entity_id, search_type, n_trials, param_space, status)"
        " SELECT %s, %s, 'grid', 1, '{}', 'completed' FROM generate_series(1, 5000)",
        [workspace.id, workspace.strategy_id],
    )
    _count_now(connection)
    first = _tick(instance)
    assert "found 0 tunes" in str(first.skip_reason)
    assert _rows_read(connection) >= 5000
    before = _rows_read(connection)
    second = _tick(instance, first.cursor)
    assert "nothing was written" in str(second.skip_reason)
    assert _rows_read(connection) == before
    snapshot = '{"schema_version": "regime_v1_1", "regime_tags": ["flat"]}'
    connection.execute("UPDATE backtest_runs SET regime_oos = %s WHERE id = %s", [snapshot, run_ids[1]])
    _count_now(connection)
    third = _tick(instance, second.cursor)
    assert len(third.run_requests or ()) == 1
    # What was requested is looked after until it is done, whether or not anything is written.
    assert third.cursor == ""


def _count_now(connection: Connection) -> None:
    """Let Postgres count what this session wrote now, and not within the next seconds."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    connection.execute("SELECT 1")


def _rows_read(connection: Connection) -> int:
    """How many rows of tunes and trials were ever read; a session's own are counted when it has ended."""
    time.sleep(0.5)
    row = connection.execute(
        "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0) + coalesce(idx_scan, 0))"
        " FROM pg_stat_user_tables WHERE relname LIKE 'backtest_tune%'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_work_is_found_through_the_index_of_what_waits_however_many_are_done(
    connection: Connection, workspace: Workspace
) -> None:
    add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1.0)
    done = (
        "INSERT INTO backtest_tunes (workspace_id, strategy_entity_id, search_type, n_trials, param_space,"
        " status, regime_key, completed_at, attributed_completed_at)"
        " SELECT %s, %s, 'grid', 1, '{}', 'completed', 'done', now(), now() FROM generate_series(1, 20000)"
    )
    connection.execute(done, [workspace.id, workspace.strategy_id])
    connection.execute("VACUUM ANALYZE backtest_tunes, backtest_tune_runs, backtest_runs")
    with connect() as app, app.working_in(workspace.id):
        query = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " + statement("orchestration.due_tunes")
        plan = [line for (line,) in app.execute(query, {"workspace_id": workspace.id})]  # type: ignore[call-overload]
    assert not any("Seq Scan on backtest_tunes" in line for line in plan), plan
    (tunes,) = (line for line in plan if "on backtest_tunes" in line)
    assert "idx_tunes_waiting_for_attribution" in tunes, plan
    assert "rows=1.00" in tunes or "rows=1 " in tunes, plan
