"""Force row-level security on tables that another program made, as on those of this project.

What is missing is said by the database itself, by the function kb_missing_guards() of migration 042.
Nothing here runs unless somebody asks for it by name.
"""

import psycopg

from kb_pipeline.errors import MigrationError
from kb_pipeline.sql import statement
from kb_pipeline.storage.postgres import Connection, connect


def missing_guards(url: str) -> list[str]:
    """Return the statements that `secure` would run on a migrated database, in order. Changes nothing."""
    with connect(url, timeouts=False) as connection, connection.transaction(force_rollback=True):
        connection.execute(statement("guards.claim_tables"))
        return _missing(connection)


def secure(url: str) -> list[str]:
    """Keep the workspaces of every table apart, in one transaction; return the statements it took.

    Raises:
        MigrationError: The role does not own the tables, or rows of one workspace refer to another's.
    """
    with connect(url, timeouts=False) as connection:
        try:
            with connection.transaction():
                connection.execute(statement("guards.claim_tables"))
                commands = _missing(connection)
                connection.execute(statement("guards.add_guards"))
        except psycopg.Error as error:
            raise MigrationError(
                f"The tables of database {connection.info.dbname!r} stay as they were: {error}"
            ) from error
        connection.execute(statement("roles.grant_to_app"))
    return commands


def _missing(connection: Connection) -> list[str]:
    return [command for (command,) in connection.execute(statement("guards.missing_guards"))]
