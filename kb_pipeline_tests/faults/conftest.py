"""Databases for the fault tests: copies of one that is filled once, and what a run left alone makes of it."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.postgres import connect, ensure_database
from kb_pipeline_tests.faults import world
from kb_pipeline_tests.faults.harness import Scene, Undisturbed, scene

_TEMPLATE = "kb_faults"
_numbers = count(1)


@pytest.fixture(scope="session")
def fault_seed() -> int:
    """Return what all chance of this session comes from; FAULT_SEED= replays one."""
    return int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(1 << 32))


@pytest.fixture
def chance(fault_seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Return the test's own stream of chance; a failure shows how to have it again."""
    print(f"FAULT_SEED={fault_seed}")  # noqa: T201 - pytest shows it with a failure
    return random.Random(f"{fault_seed} {request.node.nodeid}")  # noqa: S311 - not a secret


@pytest.fixture(scope="session")
def filled_template(server: str, migrated_template: str) -> str:
    """Return the name of a database with work for every backfill; copied, never connected to."""
    with connect(server, timeouts=False) as admin:
        _copy(admin, migrated_template, _TEMPLATE)
    with connect(ensure_database(server, _TEMPLATE)) as connection:
        world.fill(connection)
        world.remember(connection)
    return _TEMPLATE


def _copy(admin: Any, template: str, name: str) -> None:
    admin.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
            sql.Identifier(name), sql.Identifier(template)
        )
    )


@pytest.fixture(scope="session")
def scenes_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the price file lies and workers print to."""
    directory = tmp_path_factory.mktemp("faults")
    world.write_prices(directory)
    return directory


@contextmanager
def _scene_of_its_own(server: str, template: str, directory: Path, chance: random.Random) -> Iterator[Scene]:
    name = f"fault_{next(_numbers)}"
    with connect(server, timeouts=False) as admin:
        _copy(admin, template, name)
        with scene(ensure_database(server, name), directory, chance) as opened:
            yield opened
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def stage(
    server: str, filled_template: str, scenes_directory: Path, chance: random.Random
) -> Iterator[Scene]:
    """Return a scene over a database of the test's own."""
    with _scene_of_its_own(server, filled_template, scenes_directory, chance) as opened:
        yield opened


@pytest.fixture(scope="session")
def undisturbed(
    server: str, filled_template: str, scenes_directory: Path
) -> Callable[[BackfillKind], Undisturbed]:
    """Return what each kind of backfill makes of the workspace when nothing happens to it."""

    @cache
    def of(kind: BackfillKind) -> Undisturbed:
        nothing = random.Random(0)  # noqa: S311
        with _scene_of_its_own(server, filled_template, scenes_directory, nothing) as opened:
            done = opened.run(kind)
            opened.keeps_its_promises()
            calls, of_writer = map(int, done.printed(".calls").split())
            return Undisturbed(calls, of_writer, opened.written(kind), world.state(opened.connection))

    return of
