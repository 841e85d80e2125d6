"""Load the demo history into the platform's tables.

The history's files are made by scripts/build_demo.py and described in data/demo/README.md; this module
only moves their rows. Statements: `sql/demo.sql`, one a table.
"""

import gzip
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_DNS, UUID, uuid5

from kb_pipeline.errors import BadArgumentError, DatabaseError
from kb_pipeline.sql import statement
from kb_pipeline.storage.paths import data_directory
from kb_pipeline.storage.postgres import Connection

DEMO_WORKSPACE_ID: Final[UUID] = uuid5(uuid5(NAMESPACE_DNS, "demo.kb-pipeline.invalid"), "workspace")
"""The demo's tenant, the same in every database."""

DEMO_WORKSPACE_SLUG: Final = "demo"

TABLES: Final = (
    "workspaces",
    "kb_entities",
    "kb_strategy_specs",
    "run_plans",
    "backtest_runs",
    "backtest_tunes",
    "backtest_tune_runs",
)
"""Parents before children. Each has a file `<table>.jsonl.gz` and a statement `demo.<table>`."""

_ROWS_PER_STATEMENT: Final = 500


def demo_directory() -> Path:
    """Return the directory of the history, which an installed wheel does not bring along.

    Raises:
        BadArgumentError: It is not there.
    """
    directory = data_directory() / "demo"
    if not directory.is_dir():
        raise BadArgumentError(
            f"There is no demo in {directory}: its data come with a checkout of the project alone. "
            "Run `make demo` in one."
        )
    return directory


def load_demo(connection: Connection, directory: Path) -> dict[str, int]:
    """Insert the rows of the history that are not there yet; return how many per table.

    All in one transaction, so a history is never half there. A second call inserts nothing. Rows are
    never changed: what a backfill or a person wrote since the first call stays.

    Raises:
        DatabaseError: Another workspace of the database has the demo's short name.
        FileNotFoundError: The directory lacks the file of a table.
    """
    with connection.working_in(DEMO_WORKSPACE_ID), connection.transaction():
        return {table: _load_table(connection, table, directory) for table in TABLES}


def _load_table(connection: Connection, table: str, directory: Path) -> int:
    inserted = 0
    for rows in _batches(directory / f"{table}.jsonl.gz"):
        inserted += connection.execute(
            statement(f"demo.{table}"), {"workspace_id": DEMO_WORKSPACE_ID, "rows": rows}
        ).rowcount
    if table == "workspaces":
        _demand_workspace(connection)
    return inserted


def _batches(path: Path) -> Iterator[str]:
    """Yield the file's rows as JSON arrays; the lines are passed on as they are, unparsed."""
    with gzip.open(path, mode="rt", encoding="utf-8") as lines:
        while batch := list(islice(lines, _ROWS_PER_STATEMENT)):
            yield f"[{','.join(batch)}]"


def _demand_workspace(connection: Connection) -> None:
    found = connection.execute(statement("demo.workspace_exists"), {"workspace_id": DEMO_WORKSPACE_ID})
    if found.fetchone() != (True,):
        raise DatabaseError(
            f"Another workspace has the short name {DEMO_WORKSPACE_SLUG!r}, which the demo history "
            f"(workspace {DEMO_WORKSPACE_ID}) needs. Rename that one, or load the demo into another database."
        )
