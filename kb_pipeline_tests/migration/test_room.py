"""Pages of runs have room for the snapshots to come, in the tables this project makes."""

import json

import pandas as pd

from kb_pipeline.domain.regime import compute_regime_snapshot
from kb_pipeline.storage.migrations import migrate
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.builders import add_run
from kb_pipeline_tests.conftest import Workspace
from kb_pipeline_tests.migration.test_migrations import PLATFORM

PAGES = "SELECT id, (ctid::text::point)[0]::int FROM backtest_runs ORDER BY id"


def test_a_snapshot_lands_on_the_page_of_its_run(connection: Connection, workspace: Workspace) -> None:
    for number in range(60):  # rows of some 500 bytes, as a platform's are
        add_run(connection, workspace, params={"fast": number, "slow": 50, "note": "x" * 300})
    before = connection.execute(PAGES).fetchall()
    prices = pd.DataFrame(
        {name: [100.0 + bar % 7 for bar in range(200)] for name in ("high", "low", "close")}
    )
    prices.index = pd.date_range("2020-01-01", periods=200, tz="UTC")
    snapshot = json.dumps(compute_regime_snapshot(prices, source="backfill", timeframe="1d").to_dict())
    connection.execute("UPDATE backtest_runs SET regime_oos = %s", [snapshot])
    moved = [
        one for one, other in zip(before, connection.execute(PAGES).fetchall(), strict=True) if one != other
    ]
    assert len({page for _, page in before}) > 3
    assert moved == []


def test_another_program_s_table_is_filled_as_before(empty_database_url: str) -> None:
    with connect(empty_database_url, timeouts=False) as session:
        session.execute(PLATFORM)  # type: ignore[call-overload]  # a file of this repository
        migrate(empty_database_url)
        found = session.execute("SELECT reloptions FROM pg_class WHERE oid = 'backtest_runs'::regclass")
        assert found.fetchone() == (None,)
