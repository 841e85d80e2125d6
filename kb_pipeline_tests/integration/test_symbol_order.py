"""The runs of one symbol are found by an index, under row-level security too, and keep their entry in it."""

from typing import Any

import pytest
from psycopg.types.json import Jsonb

from kb_pipeline.sql import statement
from kb_pipeline.storage import embedded
from kb_pipeline.storage.backfill_runs import Span
from kb_pipeline.storage.backtest_runs import read_regime_page
from kb_pipeline.storage.migrations import migrate
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.builders import FLAT_SNAPSHOT, add_run
from kb_pipeline_tests.conftest import Workspace

RUNS_OF_A_SYMBOL = 40


@pytest.fixture
def symbols(connection: Connection, workspace: Workspace) -> Workspace:
    """Return a workspace with runs of 50 symbols that wait for a regime, one after the other in time."""
    connection.execute(
        """INSERT INTO backtest_runs
                  (workspace_id, strategy_entity_id, status, run_kind, created_at, dataset_meta)
           SELECT %s, %s, 'completed', 'test_variant', now() - number * interval '1 minute',
                  jsonb_build_object('symbol', 's' || number %% 50)
             FROM generate_series(1, 50 * %s) AS number""",
        [workspace.id, workspace.strategy_id, RUNS_OF_A_SYMBOL],
    )
    return workspace


def _scan(connection: Connection, workspace: Workspace) -> dict[str, Any]:
    """Return the node of the plan that reads a page of a symbol's runs, as kb_app; nothing sorts above it."""
    parameters = {"workspace_id": workspace.id, "symbol": "S7", "since": "-infinity", "rows": 1_000}
    explain = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) " + statement("backtest_runs.read_regime_page")
    with connection.working_in(workspace.id):
        row = connection.execute(explain, {**parameters, **Span().parameters()}).fetchone()  # type: ignore[call-overload]
    assert row is not None
    node: dict[str, Any] = row[0][0]["Plan"]
    while "Relation Name" not in node:
        assert node["Node Type"] in {"Limit", "Result"}
        node = node["Plans"][-1]
    return node


def test_a_symbol_s_page_reads_the_runs_of_that_symbol_alone(
    connection: Connection, symbols: Workspace
) -> None:
    scan = _scan(connection, symbols)
    assert scan["Index Name"] == "idx_backtest_runs_symbol_order"
    assert scan["Actual Rows"] == RUNS_OF_A_SYMBOL
    assert scan.get("Rows Removed by Filter", 0) == 0


def test_without_a_superuser_s_word_the_page_is_read_from_all_runs(
    connection: Connection, symbols: Workspace
) -> None:
    connection.execute("ALTER FUNCTION kb_run_symbol(jsonb) NOT LEAKPROOF")
    scan = _scan(connection, symbols)
    assert scan["Index Name"] == "idx_backtest_runs_backfill_order"
    assert scan["Actual Rows"] == RUNS_OF_A_SYMBOL


def test_the_embedded_database_gets_that_word_though_its_owner_may_not_give_it(
    empty_database_url: str,
) -> None:
    with connect(empty_database_url, timeouts=False) as admin:
        admin.execute(f"ALTER SCHEMA public OWNER TO {embedded.OWNER}")
    migrate(empty_database_url.replace(f"//{embedded.SUPERUSER}@", f"//{embedded.OWNER}@"))
    with connect(empty_database_url, timeouts=False) as session:
        trusted = session.execute(
            "SELECT proleakproof, proowner::regrole::text FROM pg_proc WHERE proname = 'kb_run_symbol'"
        )
        assert trusted.fetchone() == (True, embedded.OWNER)


def test_symbols_that_differ_beyond_what_the_index_keeps_are_two(
    connection: Connection, workspace: Workspace
) -> None:
    stem = "É" * 2_000  # of two bytes each: more than any index entry may have
    first, _ = (
        add_run(connection, workspace, dataset_meta={"symbol": stem + ending}) for ending in ("a", "b")
    )
    with connection.working_in(workspace.id):
        found = read_regime_page(
            connection, workspace.id, symbol=stem + "A", since=None, bounds=Span().parameters(), rows=10
        )
    assert [row[0] for row in found] == [str(first)]


def test_a_run_keeps_its_index_entries_when_it_gets_a_regime(
    connection: Connection, workspace: Workspace
) -> None:
    for _ in range(20):
        add_run(connection, workspace)
    connection.execute("UPDATE backtest_runs SET regime_oos = %s", [Jsonb(FLAT_SNAPSHOT)])
    connection.execute("SELECT pg_stat_force_next_flush()")
    counts = connection.execute(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'backtest_runs'"
    )
    assert counts.fetchone() == (20, 20)
