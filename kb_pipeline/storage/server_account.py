"""Whom the embedded server's programs run as.

Postgres refuses to run as root, so for root there is an account of its own; everyone else's server
runs as themselves. What the programs do is embedded.py's.
"""

import fcntl
import grp
import os
import pwd
import stat
import struct
import subprocess
from pathlib import Path
from typing import Final

from kb_pipeline.errors import DatabaseError, UnsafePathError

NAME: Final = "pgserver"
"""The account that stands in for root. The wheel's own Python side uses the same name."""

_ACL: Final = "system.posix_acl_access"
_ACL_VERSION: Final = struct.pack("<I", 2)
_ACL_ENTRY: Final = struct.Struct("<HHI")
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_NO_ID: Final = 0xFFFFFFFF
_PASS: Final = 1


def owners() -> set[int]:
    """Return the user ids that may own the data directory."""
    account = _existing()
    return {os.geteuid()} | ({account.pw_uid} if account else set())


def is_open_to_others(directory: os.stat_result) -> bool:
    """Return whether other users may put files into a directory; root always may."""
    by_its_group = directory.st_mode & stat.S_IWGRP and not _is_own_group(directory.st_gid)
    by_its_owner = directory.st_uid not in owners() | {0}
    return bool(directory.st_mode & stat.S_IWOTH or by_its_group or by_its_owner)


def _is_own_group(group_id: int) -> bool:
    """Return whether a group is the user's alone, as many systems make one a user and write for it."""
    user = pwd.getpwuid(os.geteuid())
    try:
        group = grp.getgrgid(group_id)
    except KeyError:
        return False
    return (group_id, group.gr_name) == (user.pw_gid, user.pw_name) and not set(group.gr_mem) - {user.pw_name}


def hand_over(directory: Path) -> None:
    """Give a directory that we have just made to whom the server runs as."""
    account = _account()
    if account is not None:
        os.chown(directory, account.pw_uid, account.pw_gid, follow_symlinks=False)


def run(command: list[str], *, inside: Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run one of the server's programs and return its exit code and all it said.

    Args:
        command: The program's absolute path and its arguments.
        inside: Its working directory, which the account need not be able to reach by name.
        typed: Its standard input.

    Raises:
        DatabaseError: We are root and no account can be made.
        UnsafePathError: We are root and the account can be given no way to the program.
    """
    try:
        return _run(command, inside, typed)
    except PermissionError:
        _open_the_way(Path(command[0]))
    try:
        return _run(command, inside, typed)
    except PermissionError as error:
        raise UnsafePathError(_cannot_reach(command[0])) from error


def _run(command: list[str], inside: Path, typed: str) -> subprocess.CompletedProcess[str]:
    account = _account()
    # A PGPORT or LC_ALL of the caller's shell must not decide how the cluster is made.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
    return subprocess.run(  # noqa: S603 - the wheel's own programs
        command,
        cwd=inside,
        env=environment | {"LC_ALL": "C"},
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )


def _existing() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(NAME) if os.geteuid() == 0 else None
    except KeyError:
        return None


def _account() -> pwd.struct_passwd | None:
    """Return the account, made if it is missing; None unless we are root."""
    if os.geteuid() != 0 or _existing():
        return _existing()
    command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", NAME]
    lock = os.open("/etc", os.O_RDONLY)
    try:
        # Of two at once both succeed, and the second gives the account another number.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _existing() is None:
            subprocess.run(command, check=False, capture_output=True)  # noqa: S603 - a constant
        return pwd.getpwnam(NAME)
    except (FileNotFoundError, KeyError) as error:
        raise DatabaseError(
            f"Postgres refuses to run as root, and no account '{NAME}' could be made for it. "
            "Run as another user, or set KB_DATABASE_URL to a database."
        ) from error
    finally:
        os.close(lock)


def _open_the_way(program: Path) -> None:
    """Let the account, and nobody else, pass through the private directories above a program.

    Root's checkouts tend to lie under /root, which is 0700. An access-control entry that allows
    passing, but not listing, is the least that lets the account execute what lies below.
    """
    account = _account()
    for directory in program.parents if account else ():
        if account and not directory.stat().st_mode & _PASS:
            try:
                _allow_passing(directory, account.pw_uid)
            except OSError as error:
                raise UnsafePathError(_cannot_reach(str(program))) from error


def _allow_passing(directory: Path, user_id: int) -> None:
    try:
        stored = os.getxattr(directory, _ACL)[len(_ACL_VERSION) :]
        entries = {(tag, owner): access for tag, access, owner in _ACL_ENTRY.iter_unpack(stored)}
    except OSError:
        mode = directory.stat().st_mode
        entries = {
            (_OWNER, _NO_ID): mode >> 6 & 7,
            (_GROUP, _NO_ID): mode >> 3 & 7,
            (_OTHERS, _NO_ID): mode & 7,
        }
    entries[_USER, user_id] = entries.get((_USER, user_id), 0) | _PASS
    # The mask bounds named users and the group alike, so it must not fall below what the group had.
    entries[_MASK, _NO_ID] = entries.get((_MASK, _NO_ID), entries[_GROUP, _NO_ID]) | _PASS
    ordered = (_ACL_ENTRY.pack(tag, access, owner) for (tag, owner), access in sorted(entries.items()))
    os.setxattr(directory, _ACL, _ACL_VERSION + b"".join(ordered))


def _cannot_reach(program: str) -> str:
    return (
        f"Postgres refuses to run as root, and its account '{NAME}' cannot reach {program}. Install the "
        "virtual environment where other users may read, or set KB_DATABASE_URL to a database."
    )
