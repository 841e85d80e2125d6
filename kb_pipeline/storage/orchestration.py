"""What Dagster's partitions, sensors and checks ask of the database. Statements: `sql/orchestration.sql`.

Of the project's own rows everything here only reads. What is written is the work of the backfills.
"""

import json
from collections.abc import Iterator
from typing import Any, Final, LiteralString, NamedTuple
from uuid import UUID

from kb_pipeline.errors import BadArgumentError
from kb_pipeline.sql import statement
from kb_pipeline.storage.backtest_runs import Rows
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.session import in_its_workspace, workspaces_there

PLOTTED_WINDOWS: Final = 300
"""Windows drawn over one price series; more of them only darken the picture."""


class Workspace(NamedTuple):
    """A tenant: `slug` is its unique short name, `name` is for people."""

    id: UUID
    slug: str
    name: str


class PlatformTables(NamedTuple):
    """Rows of a workspace in the platform's tables; the newest is a time as text, None for no rows."""

    slug: str
    runs: int
    newest_run: str | None
    tunes: int
    newest_tune: str | None


class RegimeWindow(NamedTuple):
    """A window with a regime; its ends as ISO-8601 text."""

    start: str
    end: str
    tags: tuple[str, ...]


class DueTunes(NamedTuple):
    """Tunes of a workspace that can be attributed now; the digest names exactly these completions."""

    slug: str
    tunes: int
    digest: str


def active_workspaces(connection: Connection) -> list[Workspace]:
    """Return the active workspaces, by slug."""
    rows = connection.execute(statement("orchestration.workspaces"))
    return [Workspace(UUID(row_id), slug, name) for row_id, slug, name in rows]


def of_each_workspace(
    connection: Connection, name: LiteralString
) -> Iterator[tuple[Workspace, tuple[Any, ...]]]:
    """Yield the rows of a statement about one workspace, for every active one after the other."""
    for workspace in active_workspaces(connection):
        with connection.working_in(workspace.id):
            rows = connection.execute(statement(name), {"workspace_id": workspace.id}).fetchall()
        yield from ((workspace, row) for row in rows)


def find_workspace(connection: Connection, name: str) -> Workspace:
    """Return the workspace of a slug or an id.

    Raises:
        BadArgumentError: There is none; the message lists those there are.
    """
    row = connection.execute(statement("orchestration.find_workspace"), {"name": name}).fetchone()
    if row is None:
        raise BadArgumentError(
            f"There is no workspace {name!r} in database {connection.info.dbname!r}, by slug or id. "
            "It may have been renamed: correct --workspace-id, or bring the partitions up to date with "
            f"`kb-pipeline partitions sync`. {workspaces_there(connection)}"
        )
    return Workspace(UUID(row[0]), row[1], row[2])


@in_its_workspace
def waiting_symbols(connection: Connection, workspace_id: UUID) -> dict[str, int]:
    """Return how many runs of each symbol (upper case) wait for a regime."""
    rows = connection.execute(statement("orchestration.waiting_symbols"), {"workspace_id": workspace_id})
    return dict(rows.fetchall())


@in_its_workspace
def symbol_waits(connection: Connection, workspace_id: UUID, symbol: str) -> bool:
    """Return whether any run of a symbol waits for a regime."""
    parameters = {"workspace_id": workspace_id, "symbol": symbol}
    return connection.execute(statement("orchestration.symbol_waits"), parameters).fetchone() == (True,)


def platform_tables(connection: Connection) -> list[PlatformTables]:
    """Return what the platform's tables hold of each active workspace."""
    return [
        PlatformTables(workspace.slug, *row)
        for workspace in active_workspaces(connection)
        for row in _of_workspace(connection, workspace.id, "orchestration.platform_tables")
    ]


@in_its_workspace
def regime_windows(connection: Connection, workspace_id: UUID, symbol: str) -> list[RegimeWindow]:
    """Return the windows of a symbol that have a regime, those of the newest runs first."""
    rows = connection.execute(
        statement("orchestration.regime_windows"),
        {"workspace_id": workspace_id, "symbol": symbol.upper(), "rows": PLOTTED_WINDOWS},
    )
    return [RegimeWindow(start, end, tuple(json.loads(tags or "[]"))) for start, end, tags in rows]


def due_tunes(connection: Connection) -> list[DueTunes]:
    """Return the tunes that can be attributed now, per active workspace that has any."""
    return [
        DueTunes(workspace.slug, *row)
        for workspace in active_workspaces(connection)
        for row in _of_workspace(connection, workspace.id, "orchestration.due_tunes")
    ]


@in_its_workspace
def _of_workspace(connection: Connection, workspace_id: UUID, name: str) -> Rows:
    return connection.execute(statement(name), {"workspace_id": workspace_id}).fetchall()


def commit_without_waiting(connection: Connection) -> None:
    """Let commits in this database, Dagster's own, be lost by a power loss in the second after them.

    Raises:
        psycopg.errors.InsufficientPrivilege: The database belongs to somebody else.
    """
    connection.execute(statement("orchestration.commit_without_waiting"))
