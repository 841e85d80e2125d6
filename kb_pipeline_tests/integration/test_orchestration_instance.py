"""Dagster's own database beside the project's, and how its storage writes to it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy
from sqlalchemy.engine import Engine

from kb_pipeline.orchestration.instance import dagster_database_url
from kb_pipeline.orchestration.instance_storage import HELD_CONNECTION_SECONDS
from kb_pipeline.storage.postgres import Connection, connect, ensure_database

OURS = (Path(__file__).resolve().parents[2] / "dagster.yaml").read_text()
PARTITIONS = ("a", "b", "c", "d")
DAGSTERS_OWN = "storage: {postgres: {postgres_url: {env: KB_DAGSTER_DATABASE_URL}}}"


def test_only_the_commits_of_dagster_s_own_database_do_not_wait_for_the_disk(
    connection: Connection, database_url: str
) -> None:
    # The tests' server never waits for a disk, so what is asked for is the setting and not its effect.
    url = dagster_database_url()
    assert url.startswith("postgresql+psycopg2://")
    with connect(url.replace("+psycopg2", "")) as session:
        told = session.execute(
            "SELECT datname, setconfig::text FROM pg_db_role_setting JOIN pg_database ON oid = setdatabase"
        ).fetchall()
    assert told == [("dagster", "{synchronous_commit=off}")]


@contextmanager
def _instance(
    server: str, home: Path, monkeypatch: pytest.MonkeyPatch, settings: str
) -> Iterator[dg.DagsterInstance]:
    """Open an instance over a database of its own."""
    url = ensure_database(server, f"instance_{home.name}").replace("postgresql", "postgresql+psycopg2", 1)
    monkeypatch.setenv("KB_DAGSTER_DATABASE_URL", url)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "1000")
    home.mkdir()
    (home / "dagster.yaml").write_text(settings)
    with dg.DagsterInstance.get() as instance:
        yield instance


def _announced(instance: dg.DagsterInstance, statements: list[str]) -> tuple[Any, int]:
    """Materialize four partitions in one run; return what is known of it, and the INSERTs of events."""

    @dg.asset(
        partitions_def=dg.StaticPartitionsDefinition(PARTITIONS),
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def kept() -> None:
        """Do nothing."""

    @dg.asset_check(asset=kept)
    def looked_at() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    tags = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "d"}
    statements.clear()
    job = dg.Definitions(assets=[kept], asset_checks=[looked_at]).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance, tags=tags)
    events = [it.dagster_event for it in instance.all_logs(result.run_id) if it.dagster_event]
    planned = instance.get_latest_planned_materialization_info(dg.AssetKey("kept"), "b")
    assert planned is not None
    assert planned.run_id == result.run_id
    (record,) = instance.get_asset_records([dg.AssetKey("kept")])
    assert record.asset_entry.last_run_id == result.run_id
    stored = [(it.event_type_value, it.asset_key, it.partition) for it in events]
    return sorted(map(str, stored)), sum("INSERT INTO event_logs" in it for it in statements)


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The statements that go through SQLAlchemy, as they go."""
    seen: list[str] = []

    def see(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    sqlalchemy.event.listen(Engine, "before_cursor_execute", see)
    yield seen
    sqlalchemy.event.remove(Engine, "before_cursor_execute", see)


def test_partitions_are_announced_as_dagster_announces_them_and_at_once(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statements: list[str]
) -> None:
    with _instance(server, tmp_path / "theirs", monkeypatch, DAGSTERS_OWN) as instance:
        theirs, one_by_one = _announced(instance, statements)
    with _instance(server, tmp_path / "ours", monkeypatch, OURS) as instance:
        ours, together = _announced(instance, statements)
    assert ours == theirs
    assert sum("MATERIALIZATION_PLANNED" in it for it in ours) == len(PARTITIONS)
    assert one_by_one - together == len(PARTITIONS) - 1


def test_a_connection_is_held_for_a_moment_and_given_up_when_the_server_drops_it(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _instance(server, tmp_path / "held", monkeypatch, OURS) as instance, connect(server) as admin:
        instance.get_dynamic_partitions("workspace")
        dropped = admin.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'instance_held'"
        ).fetchone()
        assert dropped is not None
        assert dropped[0] > 0
        time.sleep(HELD_CONNECTION_SECONDS + 0.1)
        assert instance.get_dynamic_partitions("workspace") == []
