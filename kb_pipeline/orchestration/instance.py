"""Where Dagster keeps its own state: DAGSTER_HOME under `.kb`, its database beside the project's.

Run as a module it prints the environment as shell lines, for `make shell`. What stands in the
instance's settings is explained in dagster.yaml.
"""

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import psycopg

from kb_pipeline.errors import BadArgumentError, KbPipelineError
from kb_pipeline.storage import embedded
from kb_pipeline.storage.orchestration import commit_without_waiting
from kb_pipeline.storage.paths import kb_home, shipped
from kb_pipeline.storage.postgres import connect, database_url, ensure_database

DATABASE: Final = embedded.DAGSTER_DATABASE
MODULE: Final = "kb_pipeline.definitions"
HOME_VARIABLE: Final = "DAGSTER_HOME"
URL_VARIABLE: Final = "KB_DAGSTER_DATABASE_URL"
BATCH_VARIABLE: Final = "DAGSTER_EVENT_BATCH_SIZE"

MODULE_VARIABLE: Final = "DAGSTER_MODULE_NAME"
"""Spares every command its `-m`, and makes every command refuse its `-w workspace.yaml`."""

MODULE_VARIABLES: Final = (
    "DAGSTER_CLI_JOB_EXECUTE_MODULE_NAME",
    "DAGSTER_CLI_ASSET_MATERIALIZE_MODULE_NAME",
    "DAGSTER_CLI_ASSET_LIST_MODULE_NAME",
)
"""Spare these commands their `-m`, and leave the others as they are."""

EVENT_BATCH_SIZE: Final = "1000"
"""Events written at once: 500 partitions in one run take half the time they take one by one."""


def prepare_environment() -> dict[str, str]:
    """Make sure that Dagster's home and database are there, and name them in the environment.

    Variables that are set win. Returns those that are now in force.

    Raises:
        BadArgumentError: dagster.yaml is nowhere to be found.
        DatabaseError: The server cannot be reached, or the database may not be made.
    """
    home = Path(os.environ.get(HOME_VARIABLE, "").strip() or kb_home() / "dagster")
    url = os.environ.get(URL_VARIABLE, "").strip() or dagster_database_url()
    _place_settings(home)
    variables = {
        HOME_VARIABLE: str(home),
        URL_VARIABLE: url,
        **dict.fromkeys(MODULE_VARIABLES, MODULE),
        BATCH_VARIABLE: os.environ.get(BATCH_VARIABLE, EVENT_BATCH_SIZE),
    }
    os.environ.update(variables)
    return variables


def dagster_database_url() -> str:
    """Return the URL of Dagster's own database on the project's server, made first if it is missing.

    Its commits do not wait for the disk, which makes an event cost 2.5 ms instead of 7: a power loss takes
    the last second of Dagster's history. What backfills write lies in another database, and waits.
    SQLAlchemy 2.1 takes a bare postgresql:// for psycopg 3, which dagster-postgres cannot speak.
    """
    url = ensure_database(database_url(), DATABASE)
    # Only an owner may, and only speed depends on it.
    with connect(url) as connection, suppress(psycopg.errors.InsufficientPrivilege):
        commit_without_waiting(connection)
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)


def _place_settings(home: Path) -> None:
    placed = home / "dagster.yaml"
    if placed.is_file():
        # Linked before, or somebody's own.
        return
    source = shipped("dagster.yaml")
    if not source.is_file():
        raise BadArgumentError(f"There is no dagster.yaml in {source.parent}, which {home} needs.")
    home.mkdir(parents=True, exist_ok=True)
    # A link, so that the settings people read and change are the settings in force. One may lead nowhere now.
    placed.unlink(missing_ok=True)
    placed.symlink_to(source)


def main() -> int:
    """Print the environment as shell lines and return the process's exit code."""
    try:
        variables = prepare_environment()
    except KbPipelineError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    for name, value in variables.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
