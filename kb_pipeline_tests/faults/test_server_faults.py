"""The server itself goes down, or its disk is full: on a server of these tests' own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from kb_pipeline.errors import DatabaseError
from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage import embedded, server_account
from kb_pipeline.storage.migrations import migrate
from kb_pipeline.storage.paths import postgres_directory
from kb_pipeline.storage.postgres import connect, ensure_database
from kb_pipeline_tests.conftest import make_home
from kb_pipeline_tests.faults import world
from kb_pipeline_tests.faults.harness import KINDS, Scene, scene, wait_until
from kb_pipeline_tests.faults.worker import Plan

RESTARTS = 10
SMALL_DISK_BYTES = 24 << 20


@pytest.fixture(scope="module")
def own_home() -> Iterator[Path]:
    """Return the home of a server with work in it, which may go down at any time."""
    home = make_home()
    url = embedded.start(home, role=embedded.SUPERUSER)
    with connect(url) as connection:  # a crash of the server leaves the disk's cache as it is
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    _fill(url)
    yield home
    embedded.stop(home)
    shutil.rmtree(home)


def _fill(url: str) -> None:
    migrate(url)
    with connect(url) as connection:
        world.fill(connection)
        world.remember(connection)


def _crash(home: Path) -> None:
    """Stop the server as a power loss would, but for the disk: nothing is written any more."""
    data = postgres_directory(home)
    embedded._run("pg_ctl", "-D", embedded._HERE, "-w", "-m", "immediate", "stop", inside=data)


def _answers(url: str) -> bool:
    """Tell whether the server is through with its recovery."""
    with suppress(DatabaseError), connect(url):
        return True
    return False


@pytest.fixture
def open_stage(
    own_home: Path, scenes_directory: Path, chance: Any
) -> Callable[[], AbstractContextManager[Scene]]:
    """Return a function that opens a scene on the server, which is started if it is down."""

    @contextmanager
    def opened(database: str = embedded.DATABASE) -> Iterator[Scene]:
        url = embedded.start(own_home, role=embedded.SUPERUSER)
        wait_until(lambda: _answers(url))
        with scene(ensure_database(url, database), scenes_directory, chance) as found:
            yield found

    return opened


@pytest.mark.parametrize("restart", range(RESTARTS))
def test_a_crash_of_the_server_loses_whole_batches_at_most_and_the_next_run_does_them_again(
    own_home: Path, open_stage: Any, undisturbed: Any, restart: int
) -> None:
    kind = KINDS[restart % len(KINDS)]
    expected = undisturbed(kind)
    with open_stage() as stage:
        stage.begin()
        others = stage.others
        plan = Plan()
        if restart % 2:  # at a call; otherwise at any moment
            plan = Plan(call=stage.chance.randint(8, expected.calls - 2), number=signal.SIGSTOP)
        working = stage.start(kind, plan)
        assert plan.call is None or working.wait_stopped()
        time.sleep(0 if plan.call else stage.chance.uniform(0.02, 0.08))
        _crash(own_home)
        working.send(signal.SIGCONT)
        assert working.end() in ((1,) if plan.call else (0, 1)), working.printed(".err")
    with open_stage() as stage:
        stage.others = others
        stage.keeps_its_promises()
        stage.finishes(kind, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_reported_as_written_outlives_a_crash(
    own_home: Path, open_stage: Any, undisturbed: Any, kind: BackfillKind
) -> None:
    with open_stage() as stage:
        stage.begin()
        stage.run(kind)
        _crash(own_home)
    with open_stage() as stage:
        assert world.state(stage.connection) == undisturbed(kind).state


@pytest.fixture(scope="module")
def disk() -> Iterator[Path | None]:
    """Return a directory on a small disk of its own, None where we may not mount one."""
    directory = Path(tempfile.mkdtemp(prefix="kb", dir="/tmp"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(directory)]
    tried = subprocess.run(command, check=False, capture_output=True) if os.geteuid() == 0 else None
    is_mounted = tried is not None and tried.returncode == 0
    if is_mounted:
        server_account.hand_over(directory)
    yield directory if is_mounted else None
    if is_mounted:
        subprocess.run(["umount", directory], check=True)
    directory.rmdir()


@pytest.fixture(scope="module")
def database_on_disk(own_home: Path, disk: Path | None) -> Iterator[str]:
    """Return the name of a database that lies there, with work in it."""
    url = embedded.start(own_home, role=embedded.SUPERUSER)
    with connect(url, timeouts=False) as admin:
        if disk:
            admin.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(disk))))
        admin.execute(f"CREATE DATABASE small TABLESPACE {'small' if disk else 'pg_default'}")  # type: ignore[call-overload]
    _fill(ensure_database(url, "small"))
    yield "small"
    embedded.stop(own_home)


def _fill_up(stage: Scene, disk: Path | None) -> None:
    """Leave no room on the disk, or at least let the workers' sessions write no file any further."""
    if disk is None:
        for pid in stage.session_pids():
            limited = server_account.run(["prlimit", f"--pid={pid}", "--fsize=0"], inside=Path("/"))
            assert limited.returncode == 0, limited.stdout
        return
    with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(1 << 12))


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_ends_it_with_a_message_and_the_next_run_goes_on(
    open_stage: Any, database_on_disk: str, disk: Path | None, undisturbed: Any, kind: BackfillKind
) -> None:
    with open_stage(database_on_disk) as stage:
        stage.begin()
        others = stage.others
        plan = Plan(call=stage.chance.randint(10, 20), number=signal.SIGSTOP)
        working = stage.start(kind, plan)
        assert working.wait_stopped()
        _fill_up(stage, disk)
        working.send(signal.SIGCONT)
        assert working.end() == 1, plan
        # where only sessions are limited, it may be the server's log that they cannot write: it restarts
        reasons = ("could not extend file",) if disk else ("could not extend file", "stopped answering")
        assert any(it in working.printed(".err") for it in reasons), working.printed(".err")
    if disk:
        (disk / "ballast").unlink()
    with open_stage(database_on_disk) as stage:
        stage.others = others
        stage.finishes(kind, undisturbed(kind))
