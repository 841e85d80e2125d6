"""Killed at any call to the database, a backfill is finished by running it again, as if nothing had been."""

from typing import Any

import pytest

from kb_pipeline.rules import BackfillKind
from kb_pipeline_tests.faults import world
from kb_pipeline_tests.faults.harness import CYCLES, KINDS, Scene
from kb_pipeline_tests.faults.worker import Plan

KILLS = -(-CYCLES // len(KINDS))


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_call_it_is_finished_by_the_next_run(
    stage: Scene, undisturbed: Any, kind: BackfillKind
) -> None:
    expected = undisturbed(kind)
    for kill in range(KILLS):
        at = 1 + (kill + stage.chance.random()) * expected.calls / KILLS
        plan = Plan(call=int(at), after=stage.chance.random() < 0.5)
        stage.begin()
        assert stage.start(kind, plan).end() == -9, plan
        stage.wait_alone()
        stage.keeps_its_promises()
        assert stage.written(kind) <= expected.written
        stage.finishes(kind, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dry_run_after_a_kill_leaves_no_trace_and_the_next_run_goes_on_where_the_killed_one_was(
    stage: Scene, undisturbed: Any, kind: BackfillKind
) -> None:
    expected = undisturbed(kind)
    assert stage.start(kind, Plan(call=expected.calls // 2)).end() == -9
    stage.wait_alone()
    before = world.everything(stage.connection, world.OURS)
    rehearsed = stage.run(kind, "--dry-run")
    assert "Updated:        0 (dry run)\n" in rehearsed.printed()
    assert world.everything(stage.connection, world.OURS) == before
    stage.finishes(kind, expected)
