"""The embedded server as several processes, crashes and strange directories find it."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from kb_pipeline.errors import DatabaseError, UnsafePathError
from kb_pipeline.storage import embedded, server_account
from kb_pipeline.storage.postgres import connect
from kb_pipeline_tests.conftest import make_home

START = "from kb_pipeline.storage.embedded import start; print(start())"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of other users")


@pytest.fixture(scope="module")
def private_parent() -> Iterator[Path]:
    """Return a directory that only who made it may enter, and where servers are stopped at the end."""
    parent = make_home()
    yield parent
    for home in parent.iterdir():
        embedded.stop(home)
    shutil.rmtree(parent)


@pytest.fixture(scope="module")
def home(private_parent: Path) -> Path:
    """Return a directory whose server four processes have started at once; they have all ended.

    Its name holds what shells, URLs and configuration files each take for something else. A killed
    start has left a half-made cluster behind.
    """
    home = private_parent / "a b&c%d'e$f\"g"
    (home / "postgres.new" / "base").mkdir(parents=True)
    environment = os.environ | {"KB_HOME": str(home), "PGPORT": "6000", "PGDATA": "/nowhere"}
    command = [sys.executable, "-W", "error", "-c", START]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    answers = [process.communicate(timeout=60)[0] for process in processes]
    assert {process.returncode for process in processes} == {0}
    assert set(answers) == {f"{embedded.url_if_running(home)}\n"}
    return home


@pytest.fixture
def pid(home: Path) -> int:
    """Return the pid of the running server of `home`."""
    embedded.start(home)
    pid = embedded.status(home).pid
    assert pid is not None
    return pid


def test_a_server_started_by_four_processes_outlives_them_and_is_one(home: Path, pid: int) -> None:
    assert embedded.start(home) == embedded.url_if_running(home)
    assert embedded.status(home) == embedded.EmbeddedStatus(
        running=True, url=embedded.start(home), data_dir=home / "postgres", pid=pid, version="18.4"
    )


def test_the_cluster_is_utf8_durable_and_listens_on_its_socket_only(home: Path) -> None:
    expected = {
        "server_encoding": "UTF8",
        "listen_addresses": "",
        "fsync": "on",
        "synchronous_commit": "on",
        "data_checksums": "on",
        "jit": "off",
        "max_connections": "100",
        "log_timezone": "UTC",
    }
    with connect(embedded.start(home)) as session:
        assert session.info.dbname == "kb"
        found = {name: session.execute("SELECT current_setting(%s)", [name]).fetchone() for name in expected}
        assert found == {name: (value,) for name, value in expected.items()}
        order = session.execute(
            "SELECT array_agg(c ORDER BY c) FROM unnest(ARRAY['a', 'B', 'ä']) AS c"
        ).fetchone()
        assert order == (["B", "a", "ä"],)


def test_only_its_owner_can_reach_the_data_and_no_directory_above_was_opened(
    home: Path, private_parent: Path
) -> None:
    assert stat.S_IMODE((home / "postgres").stat().st_mode) == 0o700
    assert stat.S_IMODE(private_parent.stat().st_mode) == 0o700
    assert "system.posix_acl_access" not in os.listxattr(private_parent)
    assert not (home / "postgres.new").exists()


def test_what_an_earlier_version_made_as_superuser_is_given_to_the_roles(home: Path) -> None:
    superuser = embedded.start(home, role=embedded.SUPERUSER)
    urls = {embedded.OWNER: superuser, embedded.APP: superuser.replace("/kb?", "/dagster?")}
    for url in urls.values():
        with connect(url) as session:
            session.execute("CREATE TABLE earlier (id serial)")
    (home / "postgres" / embedded._ROLES_MADE).unlink()
    for role, url in urls.items():
        embedded.start(home)
        with connect(url.replace(f"//{embedded.SUPERUSER}@", f"//{role}@")) as session:
            session.execute("INSERT INTO earlier DEFAULT VALUES")
            session.execute("DROP TABLE earlier")


def test_after_a_kill_the_next_start_recovers_what_was_committed(home: Path, pid: int) -> None:
    with connect(embedded.start(home, role=embedded.OWNER)) as session:
        session.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 42 AS answer")
    os.kill(pid, signal.SIGKILL)
    while embedded.url_if_running(home) is not None:  # a kill takes a moment to arrive
        time.sleep(0.01)
    with connect(embedded.start(home, role=embedded.OWNER)) as session:
        assert session.execute("SELECT answer FROM kept").fetchone() == (42,)
    assert embedded.status(home).pid != pid


def test_a_command_waits_while_a_server_recovers_whose_session_was_killed(home: Path, pid: int) -> None:
    with connect(embedded.start(home)) as bystander:
        for _ in range(3):
            victim = connect(embedded.start(home))
            os.kill(victim.info.backend_pid, signal.SIGKILL)
            with pytest.raises(psycopg.OperationalError):
                victim.execute("SELECT pg_sleep(9)")
            # Its postmaster lives, so `start` finds the server running; for a moment it takes nobody.
            with connect(embedded.start(home)) as session:
                assert session.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError):
            bystander.execute("SELECT 1")
    assert embedded.status(home).pid == pid


def test_a_long_log_is_put_aside_when_the_server_starts(home: Path, pid: int) -> None:
    assert embedded.stop(home)
    log = home / "postgres" / "server.log"
    os.truncate(log, 9 << 20)
    embedded.start(home)
    assert log.with_name("server.log.1").stat().st_size == 9 << 20
    assert log.stat().st_size < 1 << 20


def test_a_pid_file_that_names_somebody_elses_process_does_not_count(home: Path, pid: int) -> None:
    file = home / "postgres" / "postmaster.pid"
    lines = file.read_text().splitlines()
    assert embedded.stop(home)
    for left_over in (file, file.with_name(".s.PGSQL.5432.lock")):
        left_over.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    assert embedded.status(home).pid is None
    embedded.start(home)
    assert embedded.status(home).pid not in (None, pid, os.getpid())


def test_stopping_ends_the_sessions_and_a_second_stop_finds_nothing(home: Path, pid: int) -> None:
    with connect(embedded.start(home)) as session:
        assert embedded.stop(home)
        with pytest.raises(psycopg.errors.AdminShutdown):
            session.execute("SELECT 1")
    assert not embedded.stop(home)
    assert embedded.url_if_running(home) is None
    assert embedded.status(home) == embedded.EmbeddedStatus(False, None, home / "postgres", None, "18.4")
    assert not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_a_home_never_started_is_reported_and_not_made(tmp_path: Path) -> None:
    home = tmp_path / "kb"
    assert embedded.status(home) == embedded.EmbeddedStatus(False, None, home / "postgres", None, "18.4")
    assert embedded.url_if_running(home) is None
    assert not embedded.stop(home)
    assert list(tmp_path.iterdir()) == []


def test_a_path_too_long_for_a_socket_is_refused_with_the_way_out(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 100)
    with pytest.raises(UnsafePathError, match=r"at most 10[37]\. Set KB_HOME to a shorter directory"):
        embedded.start(home)
    assert not home.exists()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o705, 0o720])
def test_a_data_directory_that_others_may_enter_or_change_is_refused(private_parent: Path, mode: int) -> None:
    data = private_parent / "open" / "postgres"
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(mode)
    for ask in (embedded.start, embedded.stop, embedded.status, embedded.url_if_running):
        with pytest.raises(UnsafePathError, match=rf"has mode {mode:04o}.* must have mode 0700"):
            ask(data.parent)
    assert list(data.iterdir()) == []
    data.rmdir()


@as_root
def test_a_data_directory_of_another_user_is_refused(private_parent: Path) -> None:
    data = private_parent / "theirs" / "postgres"
    data.mkdir(parents=True, mode=0o700)
    os.chown(data, 65534, 65534)
    with pytest.raises(UnsafePathError, match="belongs to user id 65534, and this runs as user id 0"):
        embedded.start(data.parent)
    data.rmdir()


@pytest.mark.parametrize(
    ("mode", "owner"),
    [
        (0o777, 0),
        (0o1777, 0),
        pytest.param(0o770, 65534, marks=as_root),
        pytest.param(0o700, 65534, marks=as_root),
    ],
)
def test_a_home_that_others_may_change_is_refused(private_parent: Path, mode: int, owner: int) -> None:
    home = private_parent / "ajar"
    home.mkdir()
    if owner:
        os.chown(home, owner, owner)
    home.chmod(mode)
    for ask in (embedded.start, embedded.stop, embedded.status, embedded.url_if_running):
        with pytest.raises(UnsafePathError, match=f"mode {mode:04o}, so others .* `chmod go-w "):
            ask(home)
    assert list(home.iterdir()) == []
    home.rmdir()


def test_a_home_that_only_the_user_s_own_group_may_change_is_taken(private_parent: Path) -> None:
    home = private_parent / "shared"
    home.mkdir()
    home.chmod(0o770)
    assert not embedded.status(home).running
    home.rmdir()


def test_a_home_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "kb"):
        with pytest.raises(UnsafePathError, match="cannot hold the database: Not a directory"):
            embedded.start(home)


def test_a_directory_of_other_things_does_not_become_a_database(tmp_path: Path) -> None:
    data = tmp_path / "postgres"
    data.mkdir(mode=0o700)
    (data / "thesis.txt").write_text("the only copy")
    with pytest.raises(UnsafePathError, match="holds other files than a database's"):
        embedded.start(data.parent)
    assert (data / "thesis.txt").read_text() == "the only copy"


def test_a_server_that_cannot_start_says_so_in_its_own_words(home: Path, pid: int) -> None:
    assert embedded.stop(home)
    settings = home / "postgres" / "postgresql.auto.conf"
    before = settings.read_text()
    settings.write_text(before + "huge_pages = certainly\n")
    try:
        with pytest.raises(DatabaseError, match=r'did not start\. Its log ends:(?s:.*)"huge_pages"'):
            embedded.start(home)
    finally:
        settings.write_text(before)
    embedded.start(home)


TRY_AS_ANOTHER_USER = """
import glob, json, os, sys
import psycopg
data, url, *shared = sys.argv[1:]
os.setgroups([]); os.setgid(65534); os.setuid(65534)
def refused(attempt, *arguments):
    try:
        attempt(*arguments)
    except (OSError, psycopg.OperationalError) as error:
        return "denied" in str(error)
    return False
attempts = {
    "connect": (psycopg.connect, url),
    "list": (os.listdir, data),
    "read": (open, data + "/postmaster.pid"),
    "write": (open, data + "/planted", "w"),
    "lock": (open, data + ".lock", "r+"),
    **{name: (open, name) for name in shared},
}
print(json.dumps({name: refused(*attempt) for name, attempt in attempts.items()}))
"""


@as_root
def test_another_user_of_the_machine_reaches_nothing_through_any_one_of_its_walls(
    home: Path, pid: int, private_parent: Path
) -> None:
    data = home / "postgres"
    # This server's own: those of others, which may end meanwhile, lie there as well.
    mapped = Path(f"/proc/{pid}/maps").read_text()
    shared = sorted(set(re.findall(r"/dev/shm/PostgreSQL\.\d+", mapped)))  # noqa: S108 - not ours to make
    assert shared
    command = [sys.executable, "-c", TRY_AS_ANOTHER_USER, str(data), embedded.start(home), *shared]
    walls = ((private_parent, 0o700), (home, 0o700), (data, 0o700))
    try:
        for wall, _ in ((None, 0), *walls):  # first with all of them, then with one more of them gone
            if wall:
                wall.chmod(0o755)
            tried = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            named = set(tried) - ({"list"} if wall == data else set())
            assert [name for name in named if not tried[name]] == [], wall
    finally:
        for wall, mode in walls:
            wall.chmod(mode)


@as_root
def test_a_program_under_roots_private_directory_is_opened_to_the_servers_account_alone(
    tmp_path: Path,
) -> None:
    private = tmp_path / "private"
    program = private / "bin" / "who"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nid -un\n")
    program.chmod(0o755)
    private.chmod(0o700)
    for _ in range(2):
        assert server_account.run([str(program)], inside=private).stdout == f"{server_account.NAME}\n"
    listing = server_account.run(["/bin/ls", str(private)], inside=private)
    assert "Permission denied" in listing.stdout
    with pytest.raises(PermissionError):
        subprocess.run([str(program)], user=65534, group=65534, extra_groups=[], cwd="/", check=False)


@as_root
def test_a_program_that_the_servers_account_may_not_run_is_named(tmp_path: Path) -> None:
    program = tmp_path / "who"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    with pytest.raises(UnsafePathError, match=f"account '{server_account.NAME}' cannot reach {program}"):
        server_account.run([str(program)], inside=tmp_path)
