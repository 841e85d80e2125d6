"""The rules that stored rows keep: backfills keep them all, and whatever breaks one is named by it."""

from pathlib import Path

import pytest

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.candidacy import CandidacyRequest, backfill_candidacy
from kb_pipeline.backfills.invariants import RULES, breaches
from kb_pipeline.backfills.regime import RegimeRequest, backfill_regime
from kb_pipeline.backfills.trials import TrialsRequest, ingest_trials
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.faults import world

BATCH_ROWS = 10

_MARKED = "kb_status = 'candidate' AND kb_status_changed_by = 'backfill'"
_AUDIT = (
    "INSERT INTO kb_status_history"
    " (workspace_id, source_type, source_id, from_status, to_status, actor_type, actor_id, created_at)"
)
# What breaks a rule, and the rules it breaks.
BREAKING: dict[str, tuple[str, set[str]]] = {
    "a tune's tag is not its key's": (
        "UPDATE backtest_tunes SET vol_tag = 'high_vol' WHERE regime_key LIKE '%low_vol%'",
        {"tags_against_key", "attributions_against_trials"},
    ),
    "a trial's tag is not its key's": (
        "UPDATE kb_trials SET trend_tag = NULL WHERE regime_key LIKE '%|flat|%'",
        {"tags_against_key"},
    ),
    "the fingerprint of another key": (
        "UPDATE backtest_tunes SET regime_fingerprint = md5(regime_key)",
        {"fingerprint_against_key"},
    ),
    "a person decided before the backfill": (
        f"{_AUDIT} SELECT workspace_id, source_type, source_id, 'excluded', 'rejected', 'admin', 'ann',"
        " created_at - interval '1 min' FROM kb_status_history LIMIT 1",
        {"overwritten_decisions"},
    ),
    "an audit row is missing": (
        "DELETE FROM kb_status_history WHERE ctid IN (SELECT ctid FROM kb_status_history LIMIT 1)",
        {"unaudited_changes"},
    ),
    "an audit row is of a later transaction": (
        "UPDATE kb_status_history SET created_at = created_at + interval '1 ms'",
        {"unaudited_changes"},
    ),
    "a change is audited twice": (
        f"{_AUDIT} SELECT workspace_id, source_type, source_id, from_status, to_status, actor_type, actor_id,"
        " created_at - interval '1 ms' FROM kb_status_history LIMIT 1",
        {"audited_twice"},
    ),
    "a row too many was counted": (
        "UPDATE kb_backfill_runs SET processed_count = processed_count + 1 WHERE backfill_type = 'regime'",
        {"unbalanced_ledger"},
    ),
    "eleven audit rows of one transaction": (
        "WITH moved AS (UPDATE kb_status_history SET created_at = now() WHERE ctid IN"
        " (SELECT ctid FROM kb_status_history LIMIT 11) RETURNING source_id)"
        " UPDATE backtest_runs SET kb_status_changed_at = now() WHERE id IN (SELECT source_id FROM moved)",
        {"oversized_transactions"},
    ),
    "eleven regimes of one transaction": (
        "UPDATE backtest_runs SET engine = 'x' WHERE id IN"
        " (SELECT id FROM backtest_runs WHERE regime_oos IS NOT NULL LIMIT 11)",
        {"oversized_transactions"},
    ),
    "eleven tunes of one transaction": (
        "UPDATE backtest_tunes SET error = 'x' WHERE id IN"
        " (SELECT id FROM backtest_tunes WHERE regime_key IS NOT NULL LIMIT 11)",
        {"oversized_transactions"},
    ),
    "a trial holds another score than its source": (
        "UPDATE kb_trials SET sharpe_oos = sharpe_oos + 1 WHERE source_type = 'tune_run'",
        {"trials_against_source"},
    ),
    "all trials of one transaction": (
        f"UPDATE kb_trials SET ingested_at = now() WHERE workspace_id = '{world.OURS}'",
        {"oversized_transactions"},
    ),
    "a trial holds a percent value as a fraction": (
        "UPDATE kb_trials SET return_fraction_oos = return_fraction_oos * 100 WHERE source_id ="
        " (SELECT source_id FROM kb_trials WHERE source_type = 'test_variant' LIMIT 1)",
        {"trials_against_source"},
    ),
    "a tune is attributed the score of a worse trial": (
        "UPDATE backtest_tunes SET best_oos_score = best_oos_score - 0.5 WHERE id ="
        " (SELECT id FROM backtest_tunes WHERE regime_key IS NOT NULL LIMIT 1)",
        {"attributions_against_trials"},
    ),
    "a snapshot carries a tag its features do not give": (
        "UPDATE backtest_runs SET regime_oos = jsonb_set(regime_oos, '{regime_tags}', '[\"choppy\"]')"
        " WHERE id = (SELECT id FROM backtest_runs WHERE run_kind = 'test_variant' AND regime_oos IS NOT NULL"
        " AND kb_status = 'excluded' LIMIT 1)",
        {"regimes_against_features"},
    ),
}


@pytest.fixture
def finished(connection: Connection, tmp_path: Path) -> Connection:
    """Return a session in a database in which every backfill has done its work."""
    world.fill(connection)
    prices, of = world.write_prices(tmp_path), {"workspace_id": world.OURS, "batch_size": BATCH_ROWS}
    request = RegimeRequest(ohlcv_file=prices, calendar="24/7", **of)
    assert backfill_regime(connection, request, dry_run=False).updated == 88
    assert backfill_candidacy(connection, CandidacyRequest(**of), dry_run=False).updated == 80
    assert backfill_attribution(connection, AttributionRequest(**of), dry_run=False).updated == 40
    assert ingest_trials(connection, TrialsRequest(**of), dry_run=False).updated == 224
    return connection


def test_the_backfills_keep_every_rule_and_each_breach_is_named(finished: Connection) -> None:
    assert breaches(finished, world.OURS, batch_rows=BATCH_ROWS) == {}
    named = set()
    for what, (breaking, rules) in BREAKING.items():
        with finished.transaction(force_rollback=True):
            assert (finished.execute(breaking).rowcount or 0) > 0, what  # type: ignore[call-overload]
            found = breaches(finished, world.OURS, batch_rows=BATCH_ROWS).keys()
            assert rules <= found <= rules | {"oversized_transactions"}, what
            assert breaches(finished, world.THEIRS, batch_rows=BATCH_ROWS) == {}, what
        named |= rules
    assert named == set(RULES) - {"candidates_against_metrics"}


def test_a_candidate_that_the_gate_would_reject_is_named_unless_somebody_touched_it_since(
    finished: Connection,
) -> None:
    (run_id,) = finished.execute(f"SELECT id FROM backtest_runs WHERE {_MARKED} LIMIT 1").fetchone() or (
        None,
    )
    worse = "UPDATE backtest_runs SET summary = '{\"trades\": 1}' WHERE id = %s"
    finished.execute(worse, [run_id])
    assert breaches(finished, world.OURS, batch_rows=BATCH_ROWS) == {}, "decided before the change"
    with finished.transaction():  # as if the backfill had marked it as it is now
        finished.execute("UPDATE backtest_runs SET kb_status_changed_at = now() WHERE id = %s", [run_id])
        finished.execute("UPDATE kb_status_history SET created_at = now() WHERE source_id = %s", [run_id])
    found = breaches(finished, world.OURS, batch_rows=BATCH_ROWS)
    assert [(it.id, it.about) for it in found.pop("candidates_against_metrics")] == [
        (str(run_id), "insufficient_oos_trades")
    ]
    assert found == {}


def test_a_restored_dump_is_not_taken_for_a_batch(finished: Connection) -> None:
    for table in ("backtest_runs", "backtest_tunes"):
        finished.execute(f"UPDATE {table} SET error = NULL WHERE workspace_id = %s", [world.OURS])  # type: ignore[call-overload]
    assert breaches(finished, world.OURS, ["oversized_transactions"], batch_rows=BATCH_ROWS) == {}


def test_what_was_done_before_the_first_run_of_this_project_is_not_judged(finished: Connection) -> None:
    finished.execute("UPDATE backtest_runs SET kb_status_changed_at = '2020-01-01' WHERE " + _MARKED)
    assert breaches(finished, world.OURS, ["unaudited_changes"]) == {}
