"""Connections, database URLs and what their errors may show."""

from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.conftest import Workspace


def test_a_workspace_has_a_strategy(connection: Connection, workspace: Workspace) -> None:
    row = connection.execute("SELECT type FROM kb_entities WHERE id = %s", [workspace.strategy_id]).fetchone()
    assert row == ("strategy",)


def test_b(connection: Connection, workspace: Workspace) -> None:
    pass


def test_c(connection: Connection, workspace: Workspace) -> None:
    pass
