"""Bring a database's tables up to date.

Applies the files under migrations/ with yoyo, one process at a time. What the tables are stands in
those files; every one of them may be applied to a database that has it already.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend

from kb_pipeline.errors import MigrationError
from kb_pipeline.rules import LOCK_TIMEOUT_MS, MIGRATION_LOCK_WAIT_S
from kb_pipeline.sql import statement
from kb_pipeline.storage.embedded import superuser_url
from kb_pipeline.storage.events import Event, tell
from kb_pipeline.storage.paths import migrations_directory
from kb_pipeline.storage.postgres import Connection, connect, set_session
from kb_pipeline.storage.urls import DatabaseUrl, parse_database_url

_LOCK_KEY: Final = 0x6B62_6D69_6772_6174
"""The advisory lock of migrations, the letters "kbmigrat". An advisory lock is a database's own."""

_APPLICATION_NAME: Final = "kb-pipeline migrate"
_MIGRATION_TABLE: Final = "_yoyo_migration"
_POLL_S: Final = 0.2


@dataclass(frozen=True)
class MigrationReport:
    """What a migration did: names of the files applied, and how many had been applied before."""

    applied: list[str]
    already: int


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]  # yoyo has no types
    """yoyo, over sessions opened as everywhere else in the project."""

    def connect(self, target: DatabaseUrl) -> Connection:
        session = connect(target.text(), application_name=_APPLICATION_NAME, timeouts=False)
        # A table that is not to be had soon is given up and tried again: a waiting ALTER TABLE makes
        # everyone who comes after it wait too.
        set_session(session, {"lock_timeout": f"{LOCK_TIMEOUT_MS}ms"})
        return session


def migrate(url: str) -> MigrationReport:
    """Apply what is pending. A second call does nothing.

    Raises:
        DatabaseUrlError: The URL cannot be used.
        DatabaseError: The database is out of reach.
        MigrationError: A file was refused, or a table or the migration lock stayed in use for a
            minute; the message names who uses it. Files applied before it stay applied.
    """
    target = parse_database_url(url)
    with connect(url, application_name=_APPLICATION_NAME, timeouts=False) as connection:
        _refuse_without_privilege(connection, target)
        _take_lock(connection)
        with _Backend(target, _MIGRATION_TABLE) as backend:
            backend.init_database()
            # We hold the one lock that ends with its owner, so a row in yoyo's own lock table was
            # left by a process that was killed.
            backend.break_lock()
            files = read_migrations(str(_directory()))
            due = list(backend.to_apply(files))
            with backend.lock():
                for file in due:
                    _apply(backend, file, connection)
                    tell(Event.MIGRATION_APPLIED, name=file.id, database=target.place)
        for name in ("roles.make_app", "roles.grant_to_app", "roles.trust_functions"):
            connection.execute(statement(name))
    if superuser := superuser_url(target.host, target.database):
        with connect(superuser, application_name=_APPLICATION_NAME) as connection:
            connection.execute(statement("roles.trust_functions"))
    return MigrationReport([file.id for file in due], already=len(files) - len(due))


def pending(url: str) -> list[str]:
    """Return the names of the files not applied yet, in order. Changes nothing.

    Raises:
        DatabaseError: The database is out of reach.
    """
    with connect(url) as connection:
        applied = _applied(connection)
    return [path.stem for path in sorted(_directory().glob("*.sql")) if path.stem not in applied]


def _directory() -> Path:
    directory = migrations_directory()
    if not any(directory.glob("*.sql")):
        raise MigrationError(f"{directory} holds no migrations. Install kb-pipeline again.")
    return directory


def _applied(connection: Connection) -> set[str]:
    if connection.execute(statement("migrations.has_history")).fetchone() == (False,):
        return set()
    return {name for (name,) in connection.execute(statement("migrations.applied"))}


def _refuse_without_privilege(connection: Connection, target: DatabaseUrl) -> None:
    schema, allowed, user = connection.execute(statement("migrations.may_create")).fetchone() or (
        None,
        False,
        None,
    )
    if not allowed:
        raise MigrationError(
            f"User '{user}' may not create tables in schema '{schema}' of {target.place}. "
            "Migrate as the owner of the schema."
        )


def _take_lock(connection: Connection) -> None:
    # Polled, because a session that blocks in pg_advisory_lock holds a snapshot that CREATE INDEX
    # CONCURRENTLY waits for, and the two then wait for each other.
    deadline = time.monotonic() + MIGRATION_LOCK_WAIT_S
    while connection.execute(statement("session.try_lock"), {"key": _LOCK_KEY}).fetchone() == (False,):
        if time.monotonic() > deadline:
            holder = connection.execute(statement("session.lock_holder"), {"key": _LOCK_KEY}).fetchone()
            raise MigrationError(
                f"Another migration has been running for {MIGRATION_LOCK_WAIT_S} s: server process "
                f"{holder[0] if holder else 'unknown'}. Wait for it, or end it with pg_terminate_backend."
            )
        time.sleep(_POLL_S)


def _apply(backend: Any, file: Any, connection: Connection) -> None:
    deadline = time.monotonic() + MIGRATION_LOCK_WAIT_S
    while True:
        try:
            backend.apply_one(file)
        except psycopg.errors.LockNotAvailable as error:
            if time.monotonic() > deadline:
                raise MigrationError(
                    f"Migration {file.id} waited {MIGRATION_LOCK_WAIT_S} s for a table in use. "
                    f"{_table_users(connection)}"
                ) from error
            time.sleep(_POLL_S)
        except psycopg.Error as error:
            raise MigrationError(f"Migration {file.id} was refused by the database: {error}") from error
        else:
            return


def _table_users(connection: Connection) -> str:
    users = [
        f"server process {pid} ({who}, {state}, for {seconds} s)"
        for pid, who, state, seconds in connection.execute(statement("migrations.table_users"))
    ]
    if not users:
        return "Whoever held it has just let go; run it again."
    return f"It is held by {'; '.join(users)}. End those transactions and run it again."
