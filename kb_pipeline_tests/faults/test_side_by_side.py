"""Several processes at once: one writer a workspace and kind, and no harm from any other."""

import signal
from typing import Any

import pytest

from kb_pipeline.rules import BackfillKind
from kb_pipeline_tests.faults import world
from kb_pipeline_tests.faults.harness import KINDS, Scene
from kb_pipeline_tests.faults.worker import Plan

AT_ONCE_S = 1.0
ROUNDS = 3


def _stopped(stage: Scene, kind: BackfillKind, calls: int) -> Any:
    plan = Plan(call=stage.chance.randint(14, calls - 14), number=signal.SIGSTOP, only_writer=True)
    working = stage.start(kind, plan)
    assert working.wait_stopped(), plan
    return working


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_of_two_in_one_workspace_ends_at_once_and_says_who_holds_it(
    stage: Scene, undisturbed: Any, kind: BackfillKind
) -> None:
    working = _stopped(stage, kind, undisturbed(kind).writer_calls)
    second = stage.start(kind)
    assert second.end(AT_ONCE_S) == 75
    assert f"A {kind} backfill of workspace {world.OURS} is already running" in second.printed(".err")
    working.send(signal.SIGCONT)
    assert working.end() == 0
    stage.finishes(kind, undisturbed(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_two_workspaces_do_not_wait_for_each_other(
    stage: Scene, undisturbed: Any, kind: BackfillKind
) -> None:
    working = _stopped(stage, kind, undisturbed(kind).writer_calls)
    theirs = stage.start(kind, Plan(), "--workspace-id", world.THEIRS)  # the option given last holds
    assert theirs.end() == 0
    stage.others = world.everything(stage.connection)
    working.send(signal.SIGCONT)
    assert working.end() == 0
    stage.finishes(kind, undisturbed(kind), rows=2 * undisturbed(kind).written)
    ours, others = (len(world.state(stage.connection, it)) for it in (world.OURS, world.THEIRS))
    assert ours == others


def test_all_kinds_at_once_leave_what_they_leave_one_after_the_other(stage: Scene) -> None:
    for kind in KINDS:
        stage.run(kind)
    expected = world.state(stage.connection)
    for _ in range(ROUNDS):
        stage.begin()
        at_once = [stage.start(kind) for kind in stage.chance.sample(KINDS, len(KINDS))]
        assert {working.end() for working in at_once} <= {0, 3}
        stage.keeps_its_promises()
        for kind in KINDS:
            stage.run(kind)
        stage.keeps_its_promises()
        assert world.state(stage.connection) == expected
