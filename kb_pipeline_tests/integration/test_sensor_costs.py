"""What a tick of a sensor costs: one indexed query a workspace, next to nothing where nothing is new."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import sqlalchemy

from kb_pipeline.orchestration import sensors
from kb_pipeline.orchestration.resources import Database, Prices
from kb_pipeline.orchestration.sensor_decisions import LOOK_ANYWAY_AFTER_SECONDS
from kb_pipeline.orchestration.sensors import completed_tunes, new_partitions
from kb_pipeline.sql import statement
from kb_pipeline.storage import price_files
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.builders import add_trial, add_tune
from kb_pipeline_tests.conftest import Workspace


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as found:
        yield found


def _tick(
    instance: dg.DagsterInstance, cursor: str | None = None, sensor: Any = completed_tunes, **resources: Any
) -> dg.SensorResult:
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        sensor_name=sensor.name,
        resources={"database": Database(), **resources},
    )
    found = sensor(context)
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


class _CountedPrices(Prices):
    """Counts how often its files were listed."""

    listed = 0

    def symbols(self) -> list[str]:
        self.listed += 1
        return super().symbols()


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _CountedPrices:
    """Return three price files, in a directory that is taken for settled."""
    monkeypatch.setattr(price_files, "LISTING_SETTLES_AFTER_SECONDS", -1)
    (tmp_path / "data" / "ohlcv").mkdir(parents=True)
    found = _CountedPrices(tmp_path / "data")
    _add_files(found, "AAA", "BBB", "CCC")
    return found


def _add_files(prices: Prices, *symbols: str) -> None:
    for symbol in symbols:
        (prices.root / "ohlcv" / f"{symbol}_1d.csv").touch()


def _sync(instance: dg.DagsterInstance, prices: Prices, cursor: str | None) -> tuple[str, str | None]:
    """Tick, do as the daemon does with what was asked for, and return what was said and the cursor."""
    result = _tick(instance, cursor, new_partitions, prices=prices)
    for request in result.dynamic_partitions_requests or ():
        name, keys = request.partitions_def_name, list(request.partition_keys)
        if isinstance(request, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions(name, keys)
        else:
            for key in keys:
                instance.delete_dynamic_partition(name, key)
    return str(result.skip_reason), result.cursor


def test_a_tick_lists_no_file_and_reads_one_key_until_a_symbol_comes_or_goes(
    workspace: Workspace, instance: dg.DagsterInstance, prices: _CountedPrices
) -> None:
    cursor = _tick(instance, None, new_partitions, prices=prices).cursor
    says, cursor = _sync(instance, prices, cursor)
    assert "symbol: 3 added" in says, "what was asked for was not done"
    _, cursor = _sync(instance, prices, cursor)
    assert prices.listed == 3
    asked: list[Any] = []

    def hear(_connection: Any, _cursor: Any, query: str, parameters: Any, *_: Any) -> None:
        asked.extend([(query, parameters)] if "dynamic_partitions" in query else [])

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", hear)
    says, cursor = _sync(instance, prices, cursor)
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", hear)
    assert "none came or went" in says
    assert prices.listed == 3
    ((query, parameters),) = [it for it in asked if "symbol" in it[1]]
    assert "LIMIT" in query
    assert parameters[1] <= 2, "one key, and whether there are more"
    _add_files(prices, "DDD")
    says, cursor = _sync(instance, prices, cursor)
    assert "symbol: 1 added, 0 removed" in says
    (prices.root / "ohlcv" / "BBB_1d.csv").unlink()
    says, cursor = _sync(instance, prices, cursor)
    assert "symbol: 0 added, 1 removed" in says
    assert instance.get_dynamic_partitions("symbol") == ["AAA", "CCC", "DDD"]


def test_a_key_that_somebody_took_away_is_registered_again(
    workspace: Workspace,
    instance: dg.DagsterInstance,
    prices: _CountedPrices,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, cursor = _sync(instance, prices, None)
    _, cursor = _sync(instance, prices, cursor)
    instance.delete_dynamic_partition("symbol", "CCC")
    says, cursor = _sync(instance, prices, cursor)
    assert "symbol: 1 added" in says, "the newest is missed at once"
    _, cursor = _sync(instance, prices, cursor)
    instance.delete_dynamic_partition("symbol", "AAA")
    says, cursor = _sync(instance, prices, cursor)
    assert "none came or went" in says
    later = time.time() + LOOK_ANYWAY_AFTER_SECONDS
    monkeypatch.setattr(sensors, "time", SimpleNamespace(time=lambda: later))
    says, _ = _sync(instance, prices, cursor)
    assert "symbol: 1 added" in says, "any other within ten minutes"


def test_a_directory_that_changed_just_now_is_listed_again(
    workspace: Workspace,
    instance: dg.DagsterInstance,
    prices: _CountedPrices,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(price_files, "LISTING_SETTLES_AFTER_SECONDS", 5)
    cursor: str | None = None
    for _ in range(3):
        _, cursor = _sync(instance, prices, cursor)
    assert prices.listed == 3


def test_a_tick_asks_for_no_more_keys_than_dagster_can_look_for_and_counts_the_rest(
    workspace: Workspace,
    instance: dg.DagsterInstance,
    prices: _CountedPrices,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sensors, "MAX_KEYS", 2)
    says, cursor = _sync(instance, prices, None)
    assert "symbol: 2 added, 0 removed, 0 refused, 1 next time" in says
    says, cursor = _sync(instance, prices, cursor)
    assert "symbol: 1 added, 0 removed, 0 refused;" in says
    assert instance.get_dynamic_partitions("symbol") == ["AAA", "BBB", "CCC"]


def test_a_cursor_of_an_earlier_version_is_read(
    workspace: Workspace, instance: dg.DagsterInstance, prices: _CountedPrices
) -> None:
    says, _ = _sync(instance, prices, '{"quant": [0, null, 0, null]}')
    assert "symbol: 3 added" in says
    assert "0 of 1 workspaces changed" in says
