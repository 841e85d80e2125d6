"""Bring a database's tables up to date.

Applies the files under migrations/ with yoyo, one process at a time. What the tables are stands in
those files; every one of them may be applied to a database that has it already.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI

from kb_pipeline.errors import MigrationError
from kb_pipeline.rules import CLIENT_CONNECTION_CHECK_MS, LOCK_TIMEOUT_MS, MIGRATION_LOCK_WAIT_S
from kb_pipeline.sql import statement
from kb_pipeline.storage.paths import migrations_directory
from kb_pipeline.storage.postgres import Connection, connect, parse_database_url

_LOCK_KEY: Final = 0x6B62_6D69_6772_6174
"""The advisory lock of migrations, the letters "kbmigrat". An advisory lock is a database's own."""

_MIGRATION_TABLE: Final = "_yoyo_migration"
_POLL_S: Final = 0.2


@dataclass(frozen=True)
class MigrationReport:
    """What a migration did: names of the files applied, and how many had been applied before."""

    applied: list[str]
    already: int


def migrate(url: str) -> MigrationReport:
    """Apply what is pending. A second call does nothing.

    Raises:
        DatabaseUrlError: The URL cannot be used.
        DatabaseError: The database is out of reach.
        MigrationError: A file was refused, or a table or the migration lock stayed in use for a
            minute; the message names who uses it. Files applied before it stay applied.
    """
    with connect(url, application_name="kb-pipeline migrate", timeouts=False) as connection:
        _take_lock(connection)
        with _yoyo(url) as backend:
            # We hold the one lock that ends with its owner, so a row in yoyo's own lock table was
            # left by a process that was killed.
            backend.break_lock()
            migrations = read_migrations(str(migrations_directory()))
            pending_files = list(backend.to_apply(migrations))
            for migration in pending_files:
                _apply(backend, migration, connection)
    return MigrationReport([file.id for file in pending_files], len(migrations) - len(pending_files))


def pending(url: str) -> list[str]:
    """Return the names of the files not applied yet, in order. Changes nothing.

    Raises:
        DatabaseError: The database is out of reach.
    """
    with connect(url) as connection:
        applied = _applied(connection)
    files = sorted(path.stem for path in migrations_directory().glob("*.sql"))
    return [name for name in files if name not in applied]


def _applied(connection: Connection) -> set[str]:
    if connection.execute(statement("migrations.has_history")).fetchone() == (False,):
        return set()
    return {name for (name,) in connection.execute(statement("migrations.applied"))}


def _take_lock(connection: Connection) -> None:
    # Polled, because a session that blocks in pg_advisory_lock holds a snapshot that CREATE INDEX
    # CONCURRENTLY waits for, and the two then wait for each other.
    deadline = time.monotonic() + MIGRATION_LOCK_WAIT_S
    while connection.execute(statement("migrations.try_lock"), {"key": _LOCK_KEY}).fetchone() == (False,):
        if time.monotonic() > deadline:
            holder = connection.execute(statement("migrations.lock_holder"), {"key": _LOCK_KEY}).fetchone()
            pid, name = holder or ("unknown", "unknown")
            raise MigrationError(
                f"Another migration has been running for {MIGRATION_LOCK_WAIT_S} s: server process {pid} ({name}). "
                "Wait for it, or end it with pg_terminate_backend."
            )
        time.sleep(_POLL_S)


@contextmanager
def _yoyo(url: str) -> Iterator[Any]:
    target = parse_database_url(url)
    # A lock that is not to be had soon is given up and tried again: a waiting ALTER TABLE makes
    # everyone who comes after it wait too.
    limits = (
        f"-c lock_timeout={LOCK_TIMEOUT_MS} -c client_connection_check_interval={CLIENT_CONNECTION_CHECK_MS}"
    )
    options = f"{target.parameters.get('options', '')} {limits} -c timezone=UTC".strip()
    arguments = {**target.parameters, "options": options, "application_name": "kb-pipeline migrate"}
    uri = DatabaseURI(
        scheme="postgresql+psycopg",
        username=target.user,
        password=target.password,
        hostname=target.host,
        port=target.port,
        database=target.database,
        args=arguments,
    )
    with PostgresqlPsycopgBackend(uri, _MIGRATION_TABLE) as backend:
        backend.init_database()
        yield backend


def _apply(backend: Any, migration: Any, connection: Connection) -> None:
    deadline = time.monotonic() + MIGRATION_LOCK_WAIT_S
    while True:
        try:
            backend.apply_one(migration)
        except psycopg.errors.LockNotAvailable as error:
            if time.monotonic() > deadline:
                raise MigrationError(
                    f"Migration {migration.id} waited {MIGRATION_LOCK_WAIT_S} s for a table in use. {_users(connection)}"
                ) from error
            time.sleep(_POLL_S)
        except psycopg.Error as error:
            raise MigrationError(f"Migration {migration.id} was refused by the database: {error}") from error
        else:
            return


def _users(connection: Connection) -> str:
    users = [
        f"server process {pid} ({who}, {state}, for {seconds} s)"
        for pid, who, state, seconds in connection.execute(statement("migrations.table_users"))
    ]
    if not users:
        return "Whoever held it has just let go; run it again."
    return f"It is held by {'; '.join(users)}. End those transactions and run it again."
