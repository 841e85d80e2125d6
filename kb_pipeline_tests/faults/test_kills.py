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


CELLS = (
    "SELECT to_jsonb(cell) - '{id, ledger_id, computed_at}'::text[] AS cell FROM kb_regime_uplift AS cell"
    " WHERE workspace_id = %s ORDER BY 1"
)


def test_uplift_is_replaced_as_a_whole_or_not_at_all(stage: Scene) -> None:
    def cells() -> list[Any]:
        return stage.connection.execute(CELLS, [world.OURS]).fetchall()

    command = ("uplift", "--workspace-id", world.OURS)
    stage.run(BackfillKind.ATTRIBUTION)
    measured = stage.start_command(*command)
    assert measured.end() == 0
    expected, calls = cells(), int(measured.printed(".calls").split()[0])
    assert expected
    left = []
    for kill in range(1, calls + 1):
        stage.connection.execute("UPDATE kb_regime_uplift SET n = 7")  # what stood there before
        before = cells()
        assert stage.start_command(*command, plan=Plan(call=kill)).end() == -9
        stage.wait_alone()
        left.append({str(before): "old", str(expected): "new"}.get(str(cells())))
        stage.keeps_its_promises()
    assert set(left) == {"old", "new"}, "never a part of either"
    assert left == sorted(left, reverse=True), "old up to the commit, new after it"
    assert stage.start_command(*command).end() == 0
    assert cells() == expected
