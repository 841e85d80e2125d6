"""What runs inside a process that is to be killed: the command line, with a signal at one database call.

The process is forked from a warm one, because a cold start costs more than a whole backfill here. What
it runs is the real entry point; only the calls to the database are counted on their way.
"""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from kb_pipeline import cli


@dataclass(frozen=True)
class Plan:
    """A signal the process sends itself at its n-th call to the database, and rules it runs under.

    Calls are counted from 1, in every thread or in the writing one alone; the signal comes before
    the call or after its answer.
    """

    call: int | None = None
    number: signal.Signals = signal.SIGKILL
    after: bool = False
    only_writer: bool = False
    rules: Mapping[str, Any] = field(default_factory=dict)


def run_command(
    arguments: Sequence[str], environment: Mapping[str, str], said: Path, plan: Plan
) -> None:  # pragma: no cover - in a process of its own
    """Run `kb-pipeline` to its end; what it prints goes to `said`.out and .err, its calls to .calls."""
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(said.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    for place, value in plan.rules.items():
        module, _, name = place.rpartition(".")
        setattr(importlib.import_module(module), name, value)
    calls = Calls()
    count_calls(calls, plan)
    sys.argv = ["kb-pipeline", *arguments]
    try:
        cli.main()
    finally:
        said.with_suffix(".calls").write_text(f"{calls.all} {calls.of_writer}")


@dataclass
class Calls:
    """Calls to the database so far."""

    all: int = 0
    of_writer: int = 0


def count_calls(calls: Calls, plan: Plan) -> None:
    """Count every call to the database from now on, and send the plan's signal at its own."""
    wait, lock = psycopg.Connection.wait, threading.Lock()

    def counted(connection: Any, *arguments: Any, **options: Any) -> Any:
        is_writer = threading.current_thread() is threading.main_thread()
        with lock:
            calls.all += 1
            calls.of_writer += is_writer
            number = calls.of_writer if plan.only_writer else calls.all
        is_it = number == plan.call and (is_writer or not plan.only_writer)
        if is_it and not plan.after:
            os.kill(os.getpid(), plan.number)
        answer = wait(connection, *arguments, **options)
        if is_it and plan.after:
            os.kill(os.getpid(), plan.number)
        return answer

    psycopg.Connection.wait = counted  # type: ignore[method-assign]
