"""Asked to stop at any time, a backfill ends soon, between two batches, and says so."""

import signal
from typing import Any

import pytest

from kb_pipeline.rules import BackfillKind
from kb_pipeline.storage.postgres import connect
from kb_pipeline_tests.faults.harness import KINDS, Scene, wait_until
from kb_pipeline_tests.faults.people import hold_rows
from kb_pipeline_tests.faults.worker import Plan

SIGNALS_A_KIND = 4
SOON_S = 5.0
SHORT_AND_OFTEN = {
    "kb_pipeline.rules.LOCK_TIMEOUT_MS": 200,
    "kb_pipeline.backfills.engine.MAX_TRANSACTION_ATTEMPTS": 50,
}
"""How all kinds but one wait for a lock: that one as the project does. Who hears no signal waits longer."""
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}

TAKES_LONG = """
CREATE OR REPLACE FUNCTION kb_finite_number(value jsonb) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM pg_sleep(1); RETURN 1; END'
"""


def _ledger(stage: Scene) -> tuple[Any, ...]:
    row = stage.connection.execute("SELECT status, error FROM kb_backfill_runs").fetchone()
    assert row is not None
    return row


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_ends_it_soon_with_its_batch_done_and_a_report(
    stage: Scene, undisturbed: Any, kind: BackfillKind
) -> None:
    expected = undisturbed(kind)
    for number in list(EXIT_CODES) * (SIGNALS_A_KIND // 2):
        stage.begin()
        at = stage.chance.randint(5, expected.calls - 10)
        plan = Plan(call=at, number=number, after=stage.chance.random() < 0.5)
        working = stage.start(kind, plan)
        exit_code = working.end(SOON_S)
        if exit_code == 0:  # it came with the last batch
            assert (_ledger(stage), stage.written(kind)) == (("completed", None), expected.written), plan
        else:
            said = f"Interrupted by {number.name}; run the same command again to go on."
            assert (exit_code, working.printed().splitlines()[-1]) == (EXIT_CODES[number], said), plan
            assert _ledger(stage) == ("interrupted", None), plan
        stage.keeps_its_promises()
        stage.finishes(kind, expected)


@pytest.mark.parametrize(("kind", "number"), list(zip(KINDS, [*EXIT_CODES] * 2, strict=True)))
def test_a_signal_is_heard_while_somebody_else_holds_the_rows(
    stage: Scene, undisturbed: Any, kind: BackfillKind, number: signal.Signals
) -> None:
    plan = Plan() if kind == KINDS[0] else Plan(rules=SHORT_AND_OFTEN)
    with connect(stage.url) as other, other.transaction():
        hold_rows(other, kind)
        working = stage.start(kind, plan)
        wait_until(lambda: stage.somebody_waits_for("Lock"))
        working.send(number)
        assert working.end(SOON_S) == EXIT_CODES[number]
    assert _ledger(stage) == ("interrupted", None)
    stage.keeps_its_promises()
    stage.finishes(kind, undisturbed(kind))


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_signal_is_heard_while_a_page_is_read_that_takes_long(
    stage: Scene, options: tuple[str, ...]
) -> None:
    stage.connection.execute(TAKES_LONG)
    working = stage.start(BackfillKind.TRIALS, Plan(), *options)
    wait_until(lambda: stage.somebody_waits_for("Timeout"))
    working.send(signal.SIGTERM)
    assert working.end(SOON_S) == 143
    assert "Total Scanned:  0\n" in working.printed()
