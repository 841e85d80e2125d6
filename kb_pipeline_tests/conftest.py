"""A real Postgres for the tests: one server a session, one migrated database a test.

The server is the embedded one, in a directory of its own. Every test runs with KB_HOME pointing
there and without a KB_DATABASE_URL, so none can reach the database of who runs it. Rows are made in
builders.py, except the workspace that almost every test needs.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from psycopg import sql
from psycopg.pq import TransactionStatus

from kb_pipeline.storage import embedded, postgres
from kb_pipeline.storage.demo import load_demo
from kb_pipeline.storage.migrations import migrate
from kb_pipeline.storage.postgres import (
    DIRECT_VARIABLE,
    POOLER_VARIABLE,
    URL_VARIABLE,
    Connection,
    connect,
    ensure_database,
)
from kb_pipeline.storage.session import refresh_statistics
from kb_pipeline.storage.urls import parse_database_url

# Hundreds of processes are started, and each would compile anew all it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

DEMO = Path(__file__).resolve().parents[1] / "data" / "demo"
_TEMPLATE = "kb_template"
_DISK, _MEMORY = Path("/tmp"), Path("/dev/shm")  # noqa: S108 - private directories are made in them
_MEMORY_BYTES = 4 << 30
"""Free there before servers may lie in it; those of three processes take 0.7 GB together."""

_LONGEST_FIRST = (
    *("test_dagster_ui", "test_dagster_commands", "test_kills", "test_kills_beside_people"),
    *("test_sensor_kills", "test_ohlcv_properties", "test_server_faults", "test_machines", "test_signals"),
    *("test_orchestration_runs", "test_benchmarks", "test_cli_reports", "test_tenants", "test_dashboard"),
    *("test_side_by_side", "test_ohlcv_bounds", "test_dagster_stop", "test_cli_interruption"),
    *("test_write_races", "test_data_files", "test_drift", "test_migrations", "test_hostile_text"),
)
"""Files of more than five seconds. Processes that share the files out end together only if these begin."""


def pytest_configure(config: pytest.Config) -> None:
    # Left to itself, pytest-xdist would hand out the files of most tests first, and these last.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@dataclass(frozen=True)
class Workspace:
    """One tenant with one strategy."""

    id: UUID
    strategy_id: UUID


def _use_programs_of(directory: Path) -> None:
    run = embedded._run

    def without_newer_options(program: str, *arguments: str, **where: Any) -> None:
        # The provider of locales without libraries came with Postgres 17.
        run(program, *(it for it in arguments if not it.startswith(("--locale-", "--builtin-"))), **where)

    embedded._program = lambda name: str(directory / name)
    embedded._run = without_newer_options


def make_home() -> Path:
    """Return a new private directory for a server, in memory where there is room: a copy of a database
    takes 10 ms there instead of 25. Short, because a socket's path must be."""
    has_room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES
    return Path(tempfile.mkdtemp(prefix="kb", dir=_MEMORY if has_room else _DISK))


@pytest.fixture(scope="session")
def kb_home() -> Iterator[Path]:
    """Return a private directory in place of `.kb`.

    KB_TEST_POSTGRES_BIN puts the programs of another Postgres, such as the oldest supported, in the place
    of the embedded one's: `make test-postgres15`.
    """
    home = make_home()
    if other := os.environ.get("KB_TEST_POSTGRES_BIN"):
        _use_programs_of(Path(other))
        home.chmod(0o711)  # before 16, initdb goes through its directory's name, as the server's account
    yield home
    embedded.stop(home)
    shutil.rmtree(home)


@pytest.fixture(autouse=True)
def _private_home(kb_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KB_HOME", str(kb_home))
    for variable in (URL_VARIABLE, DIRECT_VARIABLE, POOLER_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="session")
def server(kb_home: Path) -> str:
    """Return the superuser's URL of the server's `kb` database, which stays empty."""
    url = embedded.start(kb_home, role=embedded.SUPERUSER)
    with connect(url) as connection:
        # Nothing here outlives the session, so nothing needs to survive a power loss.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
        connection.execute("SELECT pg_reload_conf()")
    return url


@pytest.fixture(scope="session")
def migrated_template(server: str) -> str:
    """Return the name of a database with all migrations applied; copied, never connected to."""
    migrate(ensure_database(server, _TEMPLATE))
    return _TEMPLATE


CopyOf = Callable[[str], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def copy_of(server: str) -> Iterator[CopyOf]:
    """Return what makes a database like another one and yields its URL.

    It is dropped when the next one is made: the sessions of a test that ended a moment ago take a moment
    more to be gone, and Postgres looks for that once in 0.1 s.
    """
    numbers, left = count(1), list[str]()
    with connect(server, timeouts=False) as admin:

        @contextmanager
        def copied(template: str) -> Iterator[str]:
            while left:
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(left.pop())))
            name = f"copy_{next(numbers)}"
            admin.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
            try:
                yield replace(parse_database_url(server), database=name).text()
            finally:
                left.append(name)

        yield copied


@pytest.fixture(scope="session")
def demo_template(copy_of: CopyOf, migrated_template: str) -> Iterator[str]:
    """Return the name of a database with the demo history as the demo loads it; it is only copied."""
    with copy_of(migrated_template) as url:
        with connect(url) as connection:
            load_demo(connection, DEMO)
            refresh_statistics(connection)
        yield parse_database_url(url).database


@pytest.fixture
def empty_database_url(copy_of: CopyOf) -> Iterator[str]:
    """Return the URL of a database with no tables."""
    with copy_of("template0") as url:
        yield url


@pytest.fixture
def database_url(copy_of: CopyOf, migrated_template: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the superuser's URL of a migrated database of the test's own.

    KB_DATABASE_URL names it for kb_app, which has no rights but those the project needs.
    """
    with copy_of(migrated_template) as url:
        monkeypatch.setenv("KB_DATABASE_URL", as_app(url))
        yield url


def as_app(url: str) -> str:
    """Return the URL of the same database for the role that the project works as."""
    return url.replace(f"//{embedded.SUPERUSER}@", f"//{embedded.APP}@")


class BuilderConnection(Connection):
    """A superuser's session for rows a test makes; what the project does in a workspace is done as kb_app."""

    @contextmanager
    def working_in(self, workspace_id: UUID) -> Iterator[None]:
        is_outermost = self.workspace_id is None
        if is_outermost:
            self.execute(f"SET ROLE {embedded.APP}")
        try:
            with super().working_in(workspace_id):
                yield
        finally:
            if is_outermost and self.info.transaction_status != TransactionStatus.INERROR and not self.closed:
                self.execute("SET ROLE NONE")


@contextmanager
def builder_session(database_url: str) -> Iterator[Connection]:
    """Open a session to make rows in and to hand to the project."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres, "Connection", BuilderConnection)
        # Sessions that the project opens beside this one are kb_app's from their beginning.
        opened = connect(f"{database_url}&options={quote('-c role=' + embedded.APP)}")
    with opened as session:
        session.execute("SET ROLE NONE")
        yield session


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    """Return a builder's session in the test's own migrated database."""
    with builder_session(database_url) as session:
        yield session


@pytest.fixture
def workspace(connection: Connection) -> Workspace:
    """Return a workspace `quant` with a strategy `trend_following`, both stored."""
    (workspace_id,) = connection.execute(
        "INSERT INTO workspaces (name, slug) VALUES ('Quant', 'quant') RETURNING id"
    ).fetchone() or (None,)
    (strategy_id,) = connection.execute(
        "INSERT INTO kb_entities (workspace_id, type, name)"
        " VALUES (%s, 'strategy', 'trend_following') RETURNING id",
        [workspace_id],
    ).fetchone() or (None,)
    return Workspace(workspace_id, strategy_id)
