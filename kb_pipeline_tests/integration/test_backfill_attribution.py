"""The attribution backfill on a real Postgres: which trial is best, its regime, score and baseline."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.storage import backtest_tunes
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline_tests.builders import (
    FLAT_KEY,
    FLAT_SNAPSHOT,
    TREND_SNAPSHOT,
    add_trial,
    add_tune,
    add_workspace,
    column,
)
from kb_pipeline_tests.conftest import Workspace

TREND_KEY = "regime_v1_1|default_v1|uptrend|high_vol|efficient"
ATTRIBUTED = (
    *("regime_schema_version", "tag_ruleset_id", "regime_key", "regime_fingerprint", "trend_tag", "vol_tag"),
    *("efficiency_tag", "best_oos_score", "best_oos_params", "best_oos_run_id", "baseline_oos_score"),
)


def _backfill(
    connection: Connection, workspace: Workspace, *, dry_run: bool = False, **options: Any
) -> BackfillReport:
    request = AttributionRequest(workspace_id=workspace.id, **options)
    return backfill_attribution(connection, request, dry_run=dry_run)


def _attributed(connection: Connection, tune_id: UUID) -> dict[str, Any]:
    names = ", ".join(ATTRIBUTED)
    row = connection.execute(f"SELECT {names} FROM backtest_tunes WHERE id = %s", [tune_id]).fetchone()
    assert row is not None
    return dict(zip(ATTRIBUTED, row, strict=True))


def _tune(connection: Connection, name: str, tune_id: UUID) -> Any:
    return column(connection, "backtest_tunes", name, tune_id)


A = {"n": 1}
Trials = Sequence[tuple[dict[str, Any], Any]]


def _tunes(connection: Connection, workspace: Workspace, *tunes: Trials) -> list[UUID]:
    ids = []
    for trials in tunes:
        ids.append(add_tune(connection, workspace))
        for params, sharpe in trials:
            add_trial(connection, workspace, ids[-1], params=params, sharpe=sharpe)
    return ids


# --- Which trial is best -------------------------------------------------------------------------

# Trials of one tune, and which of them is best.
BEST: dict[str, tuple[list[dict[str, Any]], int]] = {
    "the objective's score comes before the others": (
        [
            {"objective_score": 1, "score_oos": 9, "sharpe": 9},
            {"objective_score": 2, "score_oos": 0, "sharpe": 0},
        ],
        1,
    ),
    "without an objective's score, the out-of-sample one": (
        [{"score_oos": 1, "sharpe": 9}, {"score_oos": 2, "sharpe": 0}],
        1,
    ),
    "without either, the Sharpe ratio": ([{"sharpe": 1.5}, {"sharpe": 1.75}, {"sharpe": -2}], 1),
    "each trial by the first score it has": ([{"objective_score": 1}, {"sharpe": 5}], 1),
    "a NaN is last, though another score is there": (
        [{"objective_score": "NaN", "sharpe": 9}, {"objective_score": -5}],
        1,
    ),
    "infinity is last": (
        [{"objective_score": "Infinity"}, {"score_oos": "-Infinity"}, {"score_oos": -1e9}],
        2,
    ),
    "a number beyond the floats is last": (
        [{"metrics_oos": '{"sharpe": 1e400}'}, {"metrics_oos": '{"sharpe": 1e5000}'}, {"sharpe": -1}],
        2,
    ),
    "a score that is no number is last": ([{"sharpe": "9"}, {"sharpe": [9]}, {"sharpe": -1}], 2),
    "a score beats none": ([{}, {"sharpe": -9}], 1),
    "the lower index wins a tie": (
        [{"sharpe": 2, "trial_index": 7}, {"sharpe": 2, "trial_index": 3}, {"sharpe": 2, "trial_index": 5}],
        1,
    ),
    "the lower index wins among scores that are not finite": (
        [
            {"objective_score": "Infinity", "trial_index": 7},
            {"objective_score": "NaN", "trial_index": 3},
            {"trial_index": 5},
        ],
        1,
    ),
    "a trial that did not complete does not count": (
        [{"sharpe": 9, "status": "failed"}, {"sharpe": 9, "status": "running"}, {"sharpe": 1}],
        2,
    ),
    "a trial without metrics does not count": (
        [{"objective_score": 9, "metrics_oos": None}, {"objective_score": 9, "metrics_oos": "[]"}, {}],
        2,
    ),
}


def test_the_best_trial_is_found(connection: Connection, workspace: Workspace) -> None:
    found: dict[str, tuple[UUID, list[UUID]]] = {}
    for title, (trials, _) in BEST.items():
        tune_id = add_tune(connection, workspace)
        with_regime = [{**trial, "run": {"regime_oos": FLAT_SNAPSHOT}} for trial in trials]
        found[title] = tune_id, [add_trial(connection, workspace, tune_id, **it) for it in with_regime]
    report = _backfill(connection, workspace)
    assert (report.updated, report.skipped) == (len(BEST), {})
    for title, (_, best) in BEST.items():
        tune_id, run_ids = found[title]
        assert run_ids.index(_tune(connection, "best_oos_run_id", tune_id)) == best, title


# --- Which regime --------------------------------------------------------------------------------


def test_the_run_s_own_snapshot_comes_before_the_one_in_its_metrics(
    connection: Connection, workspace: Workspace
) -> None:
    keys = {}
    for stored in (TREND_SNAPSHOT, "null", None):
        tune_id = add_tune(connection, workspace)
        add_trial(connection, workspace, tune_id, sharpe=1, regime=FLAT_SNAPSHOT, run={"regime_oos": stored})
        keys[tune_id] = TREND_KEY if stored == TREND_SNAPSHOT else FLAT_KEY
    _backfill(connection, workspace)
    assert {tune_id: _tune(connection, "regime_key", tune_id) for tune_id in keys} == keys


UNREADABLE: list[tuple[str, str]] = [
    ('"regime_v1_1", "regime_tags": "uptrend"', 'regime_tags is "uptrend", not a list of tags'),
    ('"regime_v1_1", "regime_tags": ["flat", 5]', 'regime_tags is ["flat", 5], not a list of tags'),
    ('"regime_v1_1"', "regime_tags is absent, not a list of tags"),
    ('"regime_v1_1", "regime_tags": null', "regime_tags is null, not a list of tags"),
    (
        '"regime_v1_1", "regime_tags": ["uptrend", "downtrend"]',
        "regime_tags holds both uptrend and downtrend",
    ),
    ('"regime_v1_1", "regime_tags": ["low_vol", "high_vol"]', "regime_tags holds both high_vol and low_vol"),
    ('"regime_v1_1", "regime_tags": ["noisy", "efficient"]', "regime_tags holds both efficient and noisy"),
    ('null, "regime_tags": ["flat"]', "schema_version is null"),
    ('1, "regime_tags": []', "schema_version is 1"),
    ('"regime_v2", "regime_tags": []', 'schema_version is "regime_v2"'),
]
SNAPSHOT_REASONS = {
    **{f'{{"schema_version": {rest}}}': wrong for rest, wrong in UNREADABLE},
    '{"regime_tags": ["flat"]}': "schema_version is absent",
    '"flat"': "the snapshot is a JSON string, not an object",
    "[]": "the snapshot is a JSON array, not an object",
}


def test_a_regime_that_cannot_be_read_is_listed_with_what_is_wrong_and_the_rest_goes_on(
    connection: Connection, workspace: Workspace
) -> None:
    expected = []
    for stored, wrong in SNAPSHOT_REASONS.items():
        tune_id = add_tune(connection, workspace)
        add_trial(connection, workspace, tune_id, sharpe=1, run={"regime_oos": stored})
        expected.append(f"{tune_id} {wrong}")
    good = add_tune(connection, workspace)
    add_trial(connection, workspace, good, sharpe=1)
    report = _backfill(connection, workspace)
    assert report.examples == {"invalid_regime": expected}
    rows = connection.execute("SELECT id FROM backtest_tunes WHERE regime_key IS NOT NULL").fetchall()
    assert rows == [(good,)]


def test_a_tune_without_a_scored_regime_is_skipped_with_the_reason(
    connection: Connection, workspace: Workspace
) -> None:
    def add(*trials: Mapping[str, Any]) -> str:
        tune_id = add_tune(connection, workspace)
        for trial in trials:
            add_trial(connection, workspace, tune_id, **trial)
        return str(tune_id)

    expected = {
        "no_completed_runs": [add(), add({"sharpe": 1, "status": "failed"})],
        "missing_metrics_oos": [add({"metrics_oos": None}, {"metrics_oos": "null"}, {"metrics_oos": "[1]"})],
        "missing_regime_oos": [
            add({"sharpe": 1, "regime": None}),
            add({"metrics_oos": '{"sharpe": 1, "regime": null}', "run": {"regime_oos": "null"}}),
            add({"sharpe": 2, "regime": None}, {"sharpe": 1}),  # a worse trial's regime is not borrowed
        ],
    }
    add_tune(connection, workspace, status="running")
    report = _backfill(connection, workspace)
    assert report.examples == expected
    assert (report.scanned, report.updated) == (6, 0)


# --- What is written -----------------------------------------------------------------------------


def test_every_column_is_written(connection: Connection, workspace: Workspace) -> None:
    tune_id = add_tune(connection, workspace)
    tags = ["high_vol", "noisy", "oversold", "uptrend"]
    snapshot = {"schema_version": "regime_v1_1", "regime_tags": tags}
    params = {"fast": 5, "slow": 20.5, "exit": {"stop": None}}
    add_trial(connection, workspace, tune_id, sharpe=0.5, params={"fast": 9})
    run_id = add_trial(connection, workspace, tune_id, sharpe=1.25, params=params, regime=snapshot)
    assert _backfill(connection, workspace).updated == 1
    assert _attributed(connection, tune_id) == {
        "regime_schema_version": "regime_v1_1",
        "tag_ruleset_id": "default_v1",
        "regime_key": "regime_v1_1|default_v1|uptrend|high_vol|noisy",
        "regime_fingerprint": "174543d5f644dec70938f49d47d0d548597b8e12021fd5a8609278a7fac68c50",
        "trend_tag": "uptrend",
        "vol_tag": "high_vol",
        "efficiency_tag": "noisy",
        "best_oos_score": 1.25,
        "best_oos_params": params,
        "best_oos_run_id": run_id,
        "baseline_oos_score": None,  # no other tune, so nothing to compare with
    }


def test_a_dimension_without_a_tag_is_null_in_its_column_and_a_line_in_the_key(
    connection: Connection, workspace: Workspace
) -> None:
    cases: dict[str, tuple[list[str], tuple[str | None, ...]]] = {
        "regime_v1_1|default_v1|_|_|_": ([], (None, None, None)),
        "regime_v1_1|default_v1|_|low_vol|_": (["low_vol", "oversold"], (None, "low_vol", None)),
        "regime_v1_1|default_v1|uptrend|_|_": (["trending", "uptrend"], ("uptrend", None, None)),
    }
    tunes = {key: add_tune(connection, workspace) for key in cases}
    for key, tune_id in tunes.items():
        snapshot = {"schema_version": "regime_v1_1", "regime_tags": cases[key][0]}
        add_trial(connection, workspace, tune_id, sharpe=1, regime=snapshot)
    assert _backfill(connection, workspace).updated == 3
    for key, (_, tags) in cases.items():
        row = _attributed(connection, tunes[key])
        assert (row["regime_key"], row["trend_tag"], row["vol_tag"], row["efficiency_tag"]) == (key, *tags)


def test_a_sharpe_ratio_that_is_no_finite_number_is_a_null_score(
    connection: Connection, workspace: Workspace
) -> None:
    run = {"regime_oos": {**FLAT_SNAPSHOT, "schema_version": "regime_v1"}}
    best: dict[UUID, UUID] = {}
    for sharpe in ("{}", '{"sharpe": null}', '{"sharpe": "1.5"}', '{"sharpe": 1e400}', '{"sharpe": -1e5000}'):
        tune_id = add_tune(connection, workspace)
        best[tune_id] = add_trial(
            connection, workspace, tune_id, objective_score=7, metrics_oos=sharpe, run=run
        )
    add_trial(connection, workspace, add_tune(connection, workspace), sharpe=1)
    assert _backfill(connection, workspace).updated == 6
    for tune_id, run_id in best.items():
        row = _attributed(connection, tune_id)
        assert (row["best_oos_score"], row["best_oos_run_id"]) == (None, run_id)
        assert row["regime_key"] == "regime_v1|default_v1|flat|low_vol|noisy"


# --- Again, and at the same time -----------------------------------------------------------------


def test_an_attributed_tune_waits_no_more_until_it_completes_again(
    connection: Connection, workspace: Workspace
) -> None:
    tune_id = add_tune(connection, workspace)
    add_trial(connection, workspace, tune_id, sharpe=1)
    assert _backfill(connection, workspace).updated == 1
    better = add_trial(connection, workspace, tune_id, sharpe=2, regime=TREND_SNAPSHOT)
    assert _backfill(connection, workspace).scanned == 0
    connection.execute(
        "UPDATE backtest_tunes SET completed_at = completed_at + interval '1 day' WHERE id = %s", [tune_id]
    )
    assert _backfill(connection, workspace).updated == 1
    row = _attributed(connection, tune_id)
    assert (row["best_oos_run_id"], row["best_oos_score"], row["regime_key"]) == (better, 2.0, TREND_KEY)
    assert _backfill(connection, workspace).scanned == 0


def test_a_skipped_tune_is_attributed_once_its_regime_arrives(
    connection: Connection, workspace: Workspace
) -> None:
    tune_id = add_tune(connection, workspace)
    run_id = add_trial(connection, workspace, tune_id, sharpe=1, regime=None)
    assert _backfill(connection, workspace).skipped == {"missing_regime_oos": 1}
    connection.execute(
        "UPDATE backtest_runs SET regime_oos = %s WHERE id = %s", [json.dumps(FLAT_SNAPSHOT), run_id]
    )
    assert _backfill(connection, workspace).updated == 1
    assert _tune(connection, "regime_key", tune_id) == FLAT_KEY


def test_a_tune_without_a_time_of_completion_is_attributed_once(
    connection: Connection, workspace: Workspace
) -> None:
    add_trial(connection, workspace, add_tune(connection, workspace, completed_at=None), sharpe=1)
    assert [_backfill(connection, workspace).updated for _ in range(2)] == [1, 0]


def test_deleting_the_best_run_leaves_the_attribution_without_its_run(
    connection: Connection, workspace: Workspace
) -> None:
    tune_id = add_tune(connection, workspace)
    run_id = add_trial(connection, workspace, tune_id, sharpe=1)
    _backfill(connection, workspace)
    connection.execute("DELETE FROM backtest_runs WHERE id = %s", [run_id])
    row = _attributed(connection, tune_id)
    assert (row["best_oos_run_id"], row["best_oos_score"], row["regime_key"]) == (None, 1.0, FLAT_KEY)
    assert _backfill(connection, workspace).scanned == 0


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Any:
    """Return a function that runs statements in a session of their own just before the first write."""

    def arrange(*statements: tuple[str, Sequence[Any]]) -> None:
        land = backtest_tunes.land_attributions
        waiting = list(statements)

        def land_after_them(*arguments: Any, **columns: Any) -> set[str]:
            with connect(database_url) as other:
                while waiting:
                    other.execute(*waiting.pop(0))
            return land(*arguments, **columns)

        monkeypatch.setattr(backtest_tunes, "land_attributions", land_after_them)

    return arrange


def test_a_tune_that_completes_again_between_read_and_write_is_attributed_as_it_is_then(
    connection: Connection, workspace: Workspace, meddle: Any
) -> None:
    tune_id = add_tune(connection, workspace)
    first = add_trial(connection, workspace, tune_id, sharpe=1)
    second = add_trial(connection, workspace, tune_id, sharpe=0.5, regime=TREND_SNAPSHOT)
    meddle(
        ("UPDATE backtest_tune_runs SET objective_score = 9 WHERE run_id = %s", [second]),
        ("UPDATE backtest_tunes SET completed_at = now() WHERE id = %s", [tune_id]),
    )
    report = _backfill(connection, workspace)
    assert (report.updated, report.changed_meanwhile, report.conflicts) == (1, 0, 0)
    row = _attributed(connection, tune_id)
    assert (row["best_oos_run_id"], row["regime_key"]) == (second, TREND_KEY), f"and not {first}"
    assert _backfill(connection, workspace).scanned == 0


def test_a_tune_that_runs_again_between_read_and_write_is_left_alone(
    connection: Connection, workspace: Workspace, meddle: Any
) -> None:
    tune_id, other = add_tune(connection, workspace), add_tune(connection, workspace)
    for each in (tune_id, other):
        add_trial(connection, workspace, each, sharpe=1)
    meddle(("UPDATE backtest_tunes SET status = 'running' WHERE id = %s", [tune_id]))
    report = _backfill(connection, workspace)
    assert (report.updated, report.changed_meanwhile) == (1, 1)
    assert set(_attributed(connection, tune_id).values()) == {None}


def test_a_dry_run_counts_what_the_real_run_does_and_writes_nothing(
    connection: Connection, workspace: Workspace
) -> None:
    tunes = _tunes(connection, workspace, [(A, 1.0)], [], [(A, 2.0)])
    rehearsal = _backfill(connection, workspace, dry_run=True)
    assert all(set(_attributed(connection, tune_id).values()) == {None} for tune_id in tunes)
    assert connection.execute("SELECT count(*) FROM kb_backfill_runs").fetchone() == (0,)
    report = _backfill(connection, workspace)
    assert (rehearsal.scanned, rehearsal.updated, rehearsal.skipped) == (3, 2, {"no_completed_runs": 1})
    assert (report.scanned, report.updated, report.skipped) == (3, 2, {"no_completed_runs": 1})


def test_other_workspaces_are_neither_written_nor_read(connection: Connection, workspace: Workspace) -> None:
    other = add_workspace(connection)
    (theirs,) = _tunes(connection, other, [(A, 1.0)])
    ours = add_tune(connection, workspace)
    # As in an adopted database, where no foreign key forbids it: the trial's run lies in the other
    # workspace, so its snapshot is none of ours.
    connection.execute(
        "ALTER TABLE backtest_tune_runs DROP CONSTRAINT backtest_tune_runs_run_id_in_workspace"
    )
    add_trial(connection, other, ours, sharpe=1, regime=None, run={"regime_oos": FLAT_SNAPSHOT})
    report = _backfill(connection, workspace)
    assert (report.scanned, report.skipped) == (1, {"missing_regime_oos": 1})
    assert set(_attributed(connection, theirs).values()) == {None}


def test_rows_that_stay_skipped_do_not_stand_in_the_way(connection: Connection, workspace: Workspace) -> None:
    _tunes(connection, workspace, *([[]] * 5), [(A, 1.0)])
    assert [_backfill(connection, workspace, limit=2).updated for _ in range(3)] == [0, 0, 1]
