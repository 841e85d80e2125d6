"""The baseline of an attributed tune: worked out by hand, written by the backfill to a real Postgres."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.report import BackfillReport
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.builders import (
    add_strategy,
    add_trial,
    add_tune,
    add_workspace,
    column,
)
from kb_pipeline_tests.conftest import Workspace


def _backfill(
    connection: Connection, workspace: Workspace, *, dry_run: bool = False, **options: Any
) -> BackfillReport:
    request = AttributionRequest(workspace_id=workspace.id, **options)
    return backfill_attribution(connection, request, dry_run=dry_run)


def _tune(connection: Connection, name: str, tune_id: UUID) -> Any:
    return column(connection, "backtest_tunes", name, tune_id)


A, B, C = {"n": 1}, {"n": 2}, {"n": 3}
Trials = Sequence[tuple[dict[str, Any], Any]]


def _tunes(connection: Connection, workspace: Workspace, *tunes: Trials) -> list[UUID]:
    ids = []
    for trials in tunes:
        ids.append(add_tune(connection, workspace))
        for params, sharpe in trials:
            add_trial(connection, workspace, ids[-1], params=params, sharpe=sharpe)
    return ids


THREE_TUNES: Sequence[Trials] = (
    [(A, 1.0), (B, 3.0)],  # elsewhere A has (2 + 4) / 2 = 3, B 1 and C 0.5: A, which has 1 here
    [(A, 2.0), (B, 1.0)],  # elsewhere A has (1 + 4) / 2 = 2.5, B 3 and C 0.5: B, which has 1 here
    [(A, 4.0), (C, 0.5)],  # elsewhere A has (1 + 2) / 2 = 1.5 and B (3 + 1) / 2 = 2: B, not tried here
)


def _baselines(connection: Connection, tunes: Sequence[UUID]) -> list[float | None]:
    return [_tune(connection, "baseline_oos_score", tune_id) for tune_id in tunes]


# What a strategy declares, and the baselines of its three tunes.
DECLARED: dict[str, tuple[dict[str, Any], list[float | None]]] = {
    "nothing": ({}, [1.0, 1.0, None]),
    "a set that only the third tune tried": ({"spec_json": {"default_params": {"n": 3.0}}}, [1.0, 1.0, 0.5]),
    "a set that the first two tried": ({"spec_json": {"default_params": B}}, [3.0, 1.0, None]),
    "a default of every parameter": (
        {"compiled_param_schema": {"properties": {"n": {"type": "integer", "default": 3}}}},
        [1.0, 1.0, 0.5],
    ),
    "a default of some parameters": (
        {"compiled_param_schema": {"properties": {"n": {"default": 3}, "m": {}}}},
        [1.0, 1.0, None],
    ),
    "both, of which default_params comes first": (
        {
            "spec_json": {"default_params": B},
            "compiled_param_schema": {"properties": {"n": {"default": 3}}},
        },
        [3.0, 1.0, None],
    ),
    "no object": ({"spec_json": {"default_params": "n=3"}}, [1.0, 1.0, None]),
}


def test_the_baseline_is_the_declared_default_else_the_set_that_was_best_elsewhere(
    connection: Connection, workspace: Workspace
) -> None:
    tunes: dict[str, list[UUID]] = {}
    for title, (spec, _) in DECLARED.items():
        strategy_id = add_strategy(connection, workspace.id, title)
        names = "".join(f", {name}" for name in spec)
        connection.execute(
            f"INSERT INTO kb_strategy_specs (workspace_id, strategy_entity_id{names})"
            f" VALUES (%s, %s{', %s' * len(spec)})",
            [workspace.id, strategy_id, *map(json.dumps, spec.values())],
        )
        tunes[title] = _tunes(connection, Workspace(workspace.id, strategy_id), *THREE_TUNES)
    _backfill(connection, workspace, batch_size=2)
    for title, (_, expected) in DECLARED.items():
        assert _baselines(connection, tunes[title]) == expected, title


def test_the_baseline_reads_finite_scores_of_completed_trials_of_the_same_strategy_only(
    connection: Connection, workspace: Workspace
) -> None:
    others = (
        Workspace(workspace.id, add_strategy(connection, workspace.id)),
        add_workspace(connection),
    )
    for other in others:
        _tunes(connection, other, [(C, 50.0)], [(A, 60.0), (C, 70.0)])
    running = add_tune(connection, workspace, status="running")
    add_trial(connection, workspace, running, params=C, sharpe=80.0)
    tunes = _tunes(connection, workspace, *THREE_TUNES)
    add_trial(connection, workspace, tunes[1], params=C, sharpe=90.0, status="failed")
    add_trial(connection, workspace, tunes[1], params=C, metrics_oos='{"sharpe": 1e400}')
    add_trial(connection, workspace, tunes[1], params=C, sharpe="100")
    _backfill(connection, workspace)
    assert _baselines(connection, tunes) == [1.0, 1.0, None]


def test_scores_whose_sum_is_beyond_the_floats_do_not_end_the_backfill(
    connection: Connection, workspace: Workspace
) -> None:
    broken = [(A, 1.7e308), (B, -1.7e308)]
    tunes = _tunes(connection, workspace, broken, broken, *THREE_TUNES)
    report = _backfill(connection, workspace)
    assert (report.updated, report.skipped) == (5, {})
    assert _baselines(connection, tunes[2:]) == [1.0, 1.0, None], "such a score counts as none"
