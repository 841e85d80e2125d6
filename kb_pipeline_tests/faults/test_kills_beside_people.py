"""Killed at any time while a person edits its rows: what she did stays, and all the rest gets done."""

import signal
import time
from typing import Any

import pytest

from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.postgres import connect
from kb_pipeline_tests.faults import world
from kb_pipeline_tests.faults.harness import CYCLES, KINDS, Scene, wait_until
from kb_pipeline_tests.faults.people import but_for, edit_rows, halves, hold_rows, some_rows, unsettled
from kb_pipeline_tests.faults.worker import Plan

KILLS = -(-CYCLES // len(KINDS))
EDITED_ROWS = 12
LATEST_COMMIT_S = 0.02
LATEST_KILL_S = 0.05
"""After this long a worker has gone on over several batches."""


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_person_does_between_our_read_and_our_write_stays(
    stage: Scene, undisturbed: Any, kind: BackfillKind
) -> None:
    expected = undisturbed(kind)
    for _ in range(KILLS):
        stage.begin()
        plan = Plan(
            call=stage.chance.randint(1, expected.writer_calls), number=signal.SIGSTOP, only_writer=True
        )
        working = stage.start(kind, plan)
        assert working.wait_stopped(), plan
        at_once, soon = halves(some_rows(stage.connection, kind, stage.chance, EDITED_ROWS))
        edits = edit_rows(stage.connection, kind, stage.chance, at_once)
        with stage.connection.transaction():  # the worker may come to wait for these
            edits |= edit_rows(stage.connection, kind, stage.chance, soon)
            working.send(signal.SIGCONT)
            time.sleep(stage.chance.uniform(0, LATEST_COMMIT_S))
        time.sleep(stage.chance.uniform(0, LATEST_KILL_S))
        working.send(signal.SIGKILL)
        assert working.end() in (0, -signal.SIGKILL), plan
        stage.wait_alone()
        stage.keeps_its_promises()
        stage.run(kind)
        stage.keeps_its_promises()
        assert unsettled(stage.connection, edits) == [], plan
        edited = {str(row_id) for row_id in edits}
        assert but_for(edited, world.state(stage.connection)) == but_for(edited, expected.state), plan
        assert stage.left_to_do(kind) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_killed_while_it_waits_for_a_person_it_leaves_no_statement_behind(
    stage: Scene, undisturbed: Any, kind: BackfillKind
) -> None:
    before = world.state(stage.connection)
    plan = Plan(rules={"kb_pipeline.rules.CLIENT_CONNECTION_CHECK_MS": 50})
    with connect(stage.url) as her, her.transaction():
        hold_rows(her, kind)
        working = stage.start(kind, plan)
        wait_until(lambda: stage.somebody_waits_for("Lock"))
        working.send(signal.SIGKILL)
        working.end()
        wait_until(lambda: not stage.somebody_waits_for("Lock"))
    stage.wait_alone()
    assert world.state(stage.connection) == before
    stage.finishes(kind, undisturbed(kind))
