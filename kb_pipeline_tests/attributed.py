"""Attributed tunes and ingested runs for the tests of questions, made by the backfills themselves."""

from typing import Any
from uuid import UUID

from kb_pipeline.backfills.attribution import AttributionRequest, backfill_attribution
from kb_pipeline.backfills.trials import TrialsRequest, ingest_trials
from kb_pipeline.questions.recommend import RecommendRequest, recommend
from kb_pipeline.questions.recommendation import Recommendation
from kb_pipeline.storage.postgres import Connection
from kb_pipeline_tests.builders import add_run, add_trial, add_tune
from kb_pipeline_tests.conftest import Workspace

FEATURES = {
    "atr_pct": 0.02,
    "std_pct": 0.02,
    "bb_width_pct": 0.08,
    "trend_strength": 0.7,
    "trend_dir": 1,
    "zscore": 0.0,
    "rsi": 50.0,
    "efficiency_ratio": 0.5,
}


def regime_key(tags: str) -> str:
    """Return the key of tags written as `uptrend high_vol _`."""
    return "|".join(("regime_v1_1", "default_v1", *tags.split()))


def snapshot(tags: str, **features: Any) -> dict[str, Any]:
    """Return a stored snapshot with the tags of `uptrend high_vol _`."""
    named = [tag for tag in tags.split() if tag != "_"]
    return {"schema_version": "regime_v1_1", "regime_tags": named, **FEATURES, **features}


def won(
    connection: Connection,
    workspace: Workspace,
    tags: str,
    sharpe: float | None,
    *,
    timeframe: str | None = "1d",
    params: dict[str, Any] | None = None,
    features: dict[str, Any] | None = None,
    **columns: Any,
) -> str:
    """Insert a completed tune of one trial that scored this in a regime; attribution is still to come."""
    tune_id = add_tune(connection, workspace, **columns)
    meta = {"symbol": "AAPL", **({"timeframe": timeframe} if timeframe else {})}
    add_trial(
        connection,
        workspace,
        tune_id,
        sharpe=sharpe,
        params=params or {"fast": 5},
        regime=snapshot(tags, **(features or {})),
        run={"dataset_meta": meta},
    )
    return str(tune_id)


def kept(
    connection: Connection, workspace: Workspace, tags: str | None, sharpe: float, **columns: Any
) -> str:
    """Insert a candidate run that scored this, in a regime or in none; ingestion is still to come."""
    run_id: UUID = add_run(
        connection,
        workspace,
        kb_status="candidate",
        summary={"sharpe": sharpe, "trades": 9},
        dataset_meta={"symbol": "AAPL", "timeframe": "1d"},
        regime_oos=None if tags is None else snapshot(tags),
        **columns,
    )
    return str(run_id)


def learn(connection: Connection, workspace: Workspace) -> None:
    """Attribute and ingest all there is."""
    backfill_attribution(connection, AttributionRequest(workspace_id=workspace.id), dry_run=False)
    ingest_trials(connection, TrialsRequest(workspace_id=workspace.id), dry_run=False)


RECOMMENDED_FOR = "uptrend high_vol efficient"


def recommended(connection: Connection, workspace: Workspace, **options: Any) -> Recommendation:
    """Ask what to try in that regime, or in another that is given."""
    asked = {} if {"snapshot", "run_id"} & options.keys() else {"regime_key": regime_key(RECOMMENDED_FOR)}
    settings = {"workspace_id": workspace.id, "strategy": "trend_following", **asked, **options}
    return recommend(connection, RecommendRequest(**settings))


def ids_of(answer: Recommendation) -> list[str]:
    """Return the candidates of a recommendation, in its order."""
    return [it.id for it in answer.candidates]
