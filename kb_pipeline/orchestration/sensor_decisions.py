"""What the sensors decide, as pure functions: state in, runs to request out.

No sensor keeps a cursor of work: a row that commits late, or a run that fails, would be lost behind it.
Work is what the state says is still to do, and each attempt at the same work has a number.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

MAX_ATTEMPTS: Final = 5
"""Failed runs over the same work before it is left to a person; new work starts counting again."""


MAX_REQUESTS: Final = 100
"""Runs requested by one tick; Dagster writes each before the next tick can begin."""

MAX_KEYS: Final = 10_000
"""Partitions of a kind that one tick asks to add; Dagster looks for each on its own before it adds them."""


class Due(NamedTuple):
    """Work of one target (a workspace, a set of files): how much, and a digest naming exactly this work."""

    target: str
    amount: int
    digest: str


class Past(NamedTuple):
    """Finished runs over one digest."""

    succeeded: int = 0
    failed: int = 0


class Request(NamedTuple):
    """One run to request; `attempt` counts from 1."""

    due: Due
    attempt: int

    @property
    def run_key(self) -> str:
        """Dagster requests a key once, whatever became of it, so the attempt is part of it."""
        return f"{self.due.target}:{self.due.digest}:{self.attempt}"


class Plan(NamedTuple):
    """What a tick does about the work it found."""

    launch: list[Request]
    in_flight: list[str]
    given_up: list[str]
    settled: list[str]
    later: list[str]

    def __str__(self) -> str:
        launched = ", ".join(f"{it.due.target} ({it.due.amount})" for it in self.launch)
        parts = {
            "requested": launched,
            "in flight": ", ".join(self.in_flight),
            "gave up on": ", ".join(self.given_up),
            "left as they are": ", ".join(self.settled),
            "next time": ", ".join(self.later),
        }
        return "; ".join(f"{name}: {what}" for name, what in parts.items() if what) or "nothing to do"


def runs_to_launch(due: Iterable[Due], in_flight: Collection[str], past: Mapping[str, Past]) -> Plan:
    """Return what to do about each target's work.

    Work that a run went through without an error and that is still there is settled: its rows have
    a reason to be left, and going through them again changes nothing.
    """
    plan = Plan([], [], [], [], [])
    for work in due:
        before = past.get(work.digest, Past())
        if work.target in in_flight:
            plan.in_flight.append(work.target)
        elif before.succeeded:
            plan.settled.append(work.target)
        elif before.failed >= MAX_ATTEMPTS:
            plan.given_up.append(work.target)
        elif len(plan.launch) == MAX_REQUESTS:
            plan.later.append(work.target)
        else:
            plan.launch.append(Request(work, before.failed + 1))
    return plan


LOOK_ANYWAY_AFTER_SECONDS: Final = 600
"""Counters are a hint. What they should miss is found by then."""


class Look(NamedTuple):
    """A look for work that left none to do: what was written before it, by a sign of it, and when it was."""

    written: str
    at_seconds: float


def is_news(before: Look | None, written: str | None, now_seconds: float) -> bool:
    """Return whether there can be work that the last look did not settle; without counters there can."""
    return (
        before is None
        or written is None
        or written != before.written
        or now_seconds - before.at_seconds > LOOK_ANYWAY_AFTER_SECONDS
    )


SILENCE_SECONDS: Final = 30
"""A run holds a session from its beginning to its end. Where its server was restarted it has none until its
next try, for which it waits at most 20 seconds."""

START_SECONDS: Final = 45
"""A process begins its run within 5 seconds of its launch where nothing else goes on."""


class Heard(NamedTuple):
    """When the last event of a run was, and whether its process had begun by then."""

    at_seconds: float
    has_begun: bool


def silent_runs(last_heard: Mapping[str, Heard], now_seconds: float) -> list[str]:
    """Return the runs without a session from which nothing was heard for so long that they are lost."""
    return [
        run
        for run, heard in last_heard.items()
        if now_seconds - heard.at_seconds > (SILENCE_SECONDS if heard.has_begun else START_SECONDS)
    ]


class Seen(NamedTuple):
    """A file as one tick saw it; the hash is known once its size and time stood still."""

    size: int
    modified_ns: int
    sha256: str | None = None


def still_files(now: Mapping[str, Seen], before: Mapping[str, Seen]) -> list[str]:
    """Return the files that did not change since the tick before: no one is writing them any more."""
    return sorted(name for name, seen in now.items() if name in before and before[name][:2] == seen[:2])


def digest_of(parts: Sequence[str]) -> str:
    """Return a short name of exactly these parts."""
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:16]
