"""A worker that is stopped, loses its session to a second one, and goes on: it must not write any more."""

import signal
from typing import Any

import pytest

from kb_pipeline.rules import BackfillKind
from kb_pipeline_tests.faults import world
from kb_pipeline_tests.faults.harness import KINDS, Scene, Worker, wait_until
from kb_pipeline_tests.faults.worker import Plan

IN_TRANSACTION = "idle in transaction"
SHORT_MS = 50


def _stopped(stage: Scene, kind: BackfillKind, calls: int, *, in_transaction: bool) -> Worker:
    """Begin a backfill that stops itself somewhere between two batches, or inside one."""
    rules = {"kb_pipeline.rules.IDLE_IN_TRANSACTION_TIMEOUT_MS": SHORT_MS} if in_transaction else {}
    call = stage.chance.randint(8, calls - 8)
    while True:
        stage.begin()
        plan = Plan(call=call, number=signal.SIGSTOP, after=True, only_writer=True, rules=rules)
        working = stage.start(kind, plan)
        assert working.wait_stopped(), plan
        if (IN_TRANSACTION in stage.sessions()) is in_transaction:
            return working
        working.send(signal.SIGKILL)
        assert working.end() == -signal.SIGKILL
        stage.wait_alone()
        call += 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_worker_that_was_replaced_writes_no_more(
    stage: Scene, undisturbed: Any, kind: BackfillKind
) -> None:
    expected = undisturbed(kind)
    working = _stopped(stage, kind, expected.writer_calls, in_transaction=False)
    assert stage.start(kind).end() == 75, "it is stopped, but it still is there"
    stage.end_sessions()
    stage.finishes(kind, expected)
    before = world.everything(stage.connection, world.OURS)
    working.send(signal.SIGCONT)
    assert working.end() == 1
    assert world.everything(stage.connection, world.OURS) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_stopped_inside_a_batch_loses_it_by_itself(
    stage: Scene, undisturbed: Any, kind: BackfillKind
) -> None:
    expected = undisturbed(kind)
    working = _stopped(stage, kind, expected.writer_calls, in_transaction=True)
    wait_until(lambda: IN_TRANSACTION not in stage.sessions())
    stage.end_sessions()  # the reading one is idle and holds nothing
    stage.finishes(kind, expected)
    before = world.everything(stage.connection, world.OURS)
    working.send(signal.SIGCONT)
    assert working.end() == 1
    assert world.everything(stage.connection, world.OURS) == before
