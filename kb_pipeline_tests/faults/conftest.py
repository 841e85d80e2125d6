"""Databases for the fault tests: copies of one that is filled once, and what a run left alone makes of it."""

import os
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.postgres import connect
from kb_pipeline.storage.urls import parse_database_url
from kb_pipeline_tests.conftest import CopyOf
from kb_pipeline_tests.faults import world
from kb_pipeline_tests.faults.harness import Scene, Undisturbed, scene


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
def filled_template(copy_of: CopyOf, migrated_template: str) -> Iterator[str]:
    """Return the name of a database with work for every backfill; copied, never connected to."""
    with copy_of(migrated_template) as url:
        with connect(url) as connection:
            world.fill(connection)
            world.remember(connection)
        yield parse_database_url(url).database


@pytest.fixture(scope="session")
def scenes_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the price file lies and workers print to."""
    directory = tmp_path_factory.mktemp("faults")
    world.write_prices(directory)
    return directory


@pytest.fixture
def stage(
    copy_of: CopyOf, filled_template: str, scenes_directory: Path, chance: random.Random
) -> Iterator[Scene]:
    """Return a scene over a database of the test's own."""
    with copy_of(filled_template) as url, scene(url, scenes_directory, chance) as opened:
        yield opened


@pytest.fixture(scope="session")
def undisturbed(
    copy_of: CopyOf, filled_template: str, scenes_directory: Path
) -> Callable[[BackfillKind], Undisturbed]:
    """Return what each kind of backfill makes of the workspace when nothing happens to it."""

    @cache
    def of(kind: BackfillKind) -> Undisturbed:
        nothing = random.Random(0)  # noqa: S311
        with copy_of(filled_template) as url, scene(url, scenes_directory, nothing) as opened:
            done = opened.run(kind)
            opened.keeps_its_promises()
            calls, of_writer = map(int, done.printed(".calls").split())
            return Undisturbed(calls, of_writer, opened.written(kind), world.state(opened.connection))

    return of
