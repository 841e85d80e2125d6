"""Loading the demo history into a real database."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from kb_pipeline.errors import DatabaseError
from kb_pipeline.storage.demo import DEMO_WORKSPACE_ID, TABLES, load_demo
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.conftest import DEMO, CopyOf, builder_session

ROWS = {
    "workspaces": 1,
    "kb_entities": 2,
    "kb_strategy_specs": 2,
    "run_plans": 12,
    "backtest_runs": 7632,
    "backtest_tunes": 79,
    "backtest_tune_runs": 6852,
}


def test_the_first_call_inserts_every_row_and_the_second_none(connection: Connection) -> None:
    assert load_demo(connection, DEMO) == ROWS
    assert load_demo(connection, DEMO) == dict.fromkeys(TABLES, 0)


@pytest.fixture
def loaded(copy_of: CopyOf, demo_template: str) -> Iterator[Connection]:
    """Return a session in a database where the history was loaded before."""
    with copy_of(demo_template) as url, builder_session(url) as session:
        yield session


def test_a_row_that_was_changed_since_stays_as_it_is(loaded: Connection) -> None:
    promote = "UPDATE backtest_runs SET kb_status = 'promoted' WHERE run_kind = 'test_variant'"
    promoted = loaded.execute(promote).rowcount
    load_demo(loaded, DEMO)
    kept = loaded.execute("SELECT count(*) FROM backtest_runs WHERE kb_status = 'promoted'").fetchone()
    assert kept == (promoted,) == (780,)


def test_rows_that_were_deleted_come_back(loaded: Connection) -> None:
    loaded.execute("DELETE FROM backtest_tunes WHERE status = 'queued'")
    assert load_demo(loaded, DEMO) == dict.fromkeys(TABLES, 0) | {"backtest_tunes": 1}


def test_unknown_values_are_null_and_untouched_runs_start_excluded(loaded: Connection) -> None:
    row = loaded.execute(
        "SELECT count(*) FILTER (WHERE summary IS NULL), count(*) FILTER (WHERE regime_oos IS NOT NULL),"
        "       count(*) FILTER (WHERE kb_status = 'excluded'), count(*) FILTER (WHERE kb_status IS NULL)"
        "  FROM backtest_runs WHERE workspace_id = %s AND run_kind = 'test_variant'",
        [DEMO_WORKSPACE_ID],
    ).fetchone()
    assert row == (30, 0, 770, 0)  # 30 failed; 5 promoted and 5 rejected by a person


def test_another_workspace_with_the_short_name_is_left_alone_and_named(connection: Connection) -> None:
    connection.execute("INSERT INTO workspaces (name, slug) VALUES ('Mine', 'demo')")
    with pytest.raises(DatabaseError, match="short name 'demo'"):
        load_demo(connection, DEMO)
    assert connection.execute("SELECT count(*) FROM kb_entities").fetchone() == (0,)


def test_a_history_that_breaks_off_leaves_nothing_behind(connection: Connection, tmp_path: Path) -> None:
    broken = tmp_path / "demo"
    shutil.copytree(DEMO, broken)
    (broken / "backtest_tune_runs.jsonl.gz").unlink()
    with pytest.raises(FileNotFoundError):
        load_demo(connection, broken)
    assert connection.execute("SELECT count(*) FROM workspaces").fetchone() == (0,)


def test_a_trial_of_no_tune_is_refused_by_the_database(connection: Connection, tmp_path: Path) -> None:
    broken = tmp_path / "demo"
    shutil.copytree(DEMO, broken)
    shutil.copy(DEMO / "workspaces.jsonl.gz", broken / "backtest_tunes.jsonl.gz")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        load_demo(connection, broken)
    assert connection.execute("SELECT count(*) FROM workspaces").fetchone() == (0,)
