"""What worked in a regime: the best parameters under a regime key, and a summary of every key."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from kb_pipeline.domain.matching import regime_keys, regime_parts
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.questions.words import NOTHING_ATTRIBUTED, params_of, table
from kb_pipeline.storage import questions, recommend_events
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.session import in_its_workspace, require_workspace


@dataclass(frozen=True, slots=True)
class BestTune:
    """A tune and what its best trial scored out of sample (Sharpe ratio)."""

    tune_id: str
    strategy: str | None
    regime_key: str
    timeframe: str
    objective: str
    score: float
    params: Any
    run_id: str | None
    strategy_id: str


@dataclass(frozen=True, slots=True)
class BestAnswer:
    """The best tunes of a regime by timeframe and objective, of each of these the best first."""

    tunes: list[BestTune]

    def to_dict(self) -> dict[str, Any]:
        """Return everything for machines."""
        return asdict(self)

    def to_text(self) -> str:
        """Return a table for people."""
        if not self.tunes:
            return "No attributed tune with a score. kb-pipeline regimes shows what a workspace has."
        rows = [
            (
                *(it.timeframe, it.objective, f"{it.score:.3f}"),
                *(it.strategy or "?", it.regime_key, it.tune_id),
                json.dumps(it.params),
            )
            for it in self.tunes
        ]
        header = ("timeframe", "objective", "score", "strategy", "regime", "tune", "parameters")
        return table(header, rows)


@in_its_workspace
def best_parameters(
    connection: Connection,
    workspace_id: UUID,
    *,
    regime_key: str | None = None,
    trend: str | None = None,
    vol: str | None = None,
    limit: int = 10,
) -> BestAnswer:
    """Return the best tunes of a workspace under a regime key, or under a trend and a volatility.

    By score, ties by tune id, and no more than `limit` of each timeframe and objective: scores of
    different ones are not ranked against each other, so these come one after the other.

    Raises:
        BadArgumentError: Neither a key nor both tags were given, one is unknown, or there is no such
            workspace.
    """
    has_tags = trend is not None and vol is not None
    if (regime_key is None) != has_tags or (trend is None) != (vol is None):
        raise BadArgumentError("Give either --regime-key, or --trend and --vol.")
    if regime_key is not None:
        regime_parts(regime_key)
    keys = [regime_key] if regime_key is not None else regime_keys(trend=str(trend), vol=str(vol))
    require_workspace(connection, workspace_id)
    groups = recommend_events.score_groups(connection, workspace_id)
    kinds = sorted({(group.timeframe, group.objective) for group in groups})
    found = _by_score(questions.best_of_keys(connection, workspace_id, keys, kinds, limit))
    ranked = [[it for it in found if (it.timeframe, it.objective) == kind][:limit] for kind in kinds]
    return BestAnswer([it for of_kind in ranked for it in of_kind])


def _by_score(rows: Sequence[Sequence[Any]]) -> list[BestTune]:
    tunes = [
        BestTune(*row[:6], params=params_of(row[6]), run_id=row[7], strategy_id=row[8])  # type: ignore[misc]
        for row in rows
    ]
    return sorted(tunes, key=lambda it: (-it.score, it.tune_id))


@dataclass(frozen=True, slots=True)
class RegimeSummary:
    """What a workspace knows of one regime key by tunes of one timeframe and objective, because only their
    scores compare. Scores are out of sample; None where no tune has one.
    """

    regime_key: str
    timeframe: str
    objective: str
    trend: str
    vol: str
    efficiency: str
    tunes: int
    scored_tunes: int
    mean_score: float | None
    best: BestTune | None


@in_its_workspace
def regime_summary(connection: Connection, workspace_id: UUID) -> list[RegimeSummary]:
    """Return a summary of every regime key, timeframe and objective of a workspace, most tunes first.

    Raises:
        BadArgumentError: There is no such workspace.
    """
    require_workspace(connection, workspace_id)
    counted = questions.regime_counts(connection, workspace_id)
    keys, kinds = sorted({row[0] for row in counted}), sorted({row[1:3] for row in counted})
    found = _by_score(questions.best_of_keys(connection, workspace_id, keys, kinds, 1))
    best = {(it.regime_key, it.timeframe, it.objective): it for it in found}
    summaries = [
        RegimeSummary(
            *(key, bars, objective), *_dimensions(key), tunes, scored, mean, best.get((key, bars, objective))
        )
        for key, bars, objective, tunes, scored, mean in counted
    ]
    return sorted(summaries, key=lambda it: (-it.tunes, it.regime_key, it.timeframe, it.objective))


def _dimensions(regime_key: str) -> tuple[str, str, str]:
    try:
        return regime_parts(regime_key)
    except BadArgumentError:  # a key of another ruleset or layout, which the platform may have written
        return ("?", "?", "?")


def summary_text(summaries: Sequence[RegimeSummary]) -> str:
    """Return the summary as a table for people."""
    if not summaries:
        return NOTHING_ATTRIBUTED
    rows = [
        (
            *(it.regime_key, it.timeframe, it.objective),
            *(str(it.tunes), str(it.scored_tunes)),
            "-" if it.mean_score is None else f"{it.mean_score:.3f}",
            *(("-",) * 3 if it.best is None else _best_cells(it.best)),
        )
        for it in summaries
    ]
    header = (
        "regime",
        "timeframe",
        "objective",
        "tunes",
        "scored",
        "mean score",
        "best",
        "of strategy",
        "with",
    )
    return table(header, rows)


def _best_cells(best: BestTune) -> tuple[str, str, str]:
    return f"{best.score:.3f}", best.strategy or "?", json.dumps(best.params)
