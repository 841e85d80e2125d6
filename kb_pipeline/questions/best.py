"""What worked in a regime: the best parameters under a regime key, and a summary of every key."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from kb_pipeline.domain.matching import regime_keys, regime_parts
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.questions.words import params_of, printable, table
from kb_pipeline.storage import questions
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.session import require_workspace


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
    """The best tunes of a regime, best first."""

    tunes: list[BestTune]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return everything for machines."""
        return asdict(self)

    def to_text(self) -> str:
        """Return a table for people."""
        if not self.tunes:
            return "No attributed tune with a score. kb-pipeline regimes shows what a workspace has."
        rows = [
            (
                f"{it.score:.3f}",
                *(it.strategy or "?", it.timeframe, it.objective, it.regime_key, it.tune_id),
                json.dumps(it.params),
            )
            for it in self.tunes
        ]
        header = ("score", "strategy", "timeframe", "objective", "regime", "tune", "parameters")
        return "\n".join([table(header, rows), *(f"Note: {printable(it)}" for it in self.warnings)])


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

    By score, ties by tune id. Scores of all strategies, timeframes and objectives stand in one list;
    a warning says so where there is more than one kind.

    Raises:
        BadArgumentError: Neither a key nor both tags were given, one is unknown, or there is no such
            workspace.
    """
    if (regime_key is None) == (trend is None or vol is None) or (trend is None) != (vol is None):
        raise BadArgumentError("Give either --regime-key, or --trend and --vol.")
    if regime_key is not None:
        regime_parts(regime_key)
    keys = regime_keys(trend=trend, vol=vol) if trend and vol else [str(regime_key)]
    require_workspace(connection, workspace_id)
    found = _by_score(questions.best_of_keys(connection, workspace_id, keys, limit))[:limit]
    return BestAnswer(found, _warnings(found))


def _by_score(rows: Sequence[Sequence[Any]]) -> list[BestTune]:
    tunes = [
        BestTune(*row[:6], params=params_of(row[6]), run_id=row[7], strategy_id=row[8])  # type: ignore[misc]
        for row in rows
    ]
    return sorted(tunes, key=lambda it: (-it.score, it.tune_id))


def _warnings(tunes: Sequence[BestTune]) -> list[str]:
    kinds = Counter((it.timeframe, it.objective) for it in tunes)
    if len(kinds) < 2:
        return []
    named = ", ".join(
        f"{count} of {timeframe} {objective}" for (timeframe, objective), count in kinds.items()
    )
    return [f"scores of different timeframes or objectives do not compare; these are {named}"]


@dataclass(frozen=True, slots=True)
class RegimeSummary:
    """What a workspace knows of one regime key. Scores are out of sample; None where no tune has one."""

    regime_key: str
    trend: str
    vol: str
    efficiency: str
    tunes: int
    scored_tunes: int
    mean_score: float | None
    best: BestTune | None


def regime_summary(connection: Connection, workspace_id: UUID) -> list[RegimeSummary]:
    """Return a summary of every regime key of a workspace, most tunes first.

    Raises:
        BadArgumentError: There is no such workspace.
    """
    require_workspace(connection, workspace_id)
    counted = questions.regime_counts(connection, workspace_id)
    keys = [row[0] for row in counted]
    best = {it.regime_key: it for it in _by_score(questions.best_of_keys(connection, workspace_id, keys, 1))}
    summaries = [
        RegimeSummary(key, *_dimensions(key), tunes, scored, mean, best.get(key))
        for key, tunes, scored, mean in counted
    ]
    return sorted(summaries, key=lambda it: (-it.tunes, it.regime_key))


def _dimensions(regime_key: str) -> tuple[str, str, str]:
    try:
        return regime_parts(regime_key)
    except BadArgumentError:  # a key of another ruleset or layout, which the platform may have written
        return ("?", "?", "?")


def summary_text(summaries: Sequence[RegimeSummary]) -> str:
    """Return the summary as a table for people."""
    if not summaries:
        return "No tune of this workspace has a regime yet. Run: kb-pipeline backfill-attribution"
    rows = [
        (
            it.regime_key,
            *(str(it.tunes), str(it.scored_tunes)),
            "-" if it.mean_score is None else f"{it.mean_score:.3f}",
            *(("-",) * 3 if it.best is None else _best_cells(it.best)),
        )
        for it in summaries
    ]
    return table(("regime", "tunes", "scored", "mean score", "best", "of strategy", "with"), rows)


def _best_cells(best: BestTune) -> tuple[str, str, str]:
    return f"{best.score:.3f}", best.strategy or "?", json.dumps(best.params)
