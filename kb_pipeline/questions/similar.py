"""What lies near a regime beyond its key: the nearest tunes and runs, and what worked there."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from kb_pipeline.domain.matching import Contribution, contributions_text
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.plain_text import printable
from kb_pipeline.questions import vectors
from kb_pipeline.questions.subject import subject_of
from kb_pipeline.questions.vectors import Apart, Progress, is_score
from kb_pipeline.questions.words import params_of, table
from kb_pipeline.rules import RECOMMENDED_CANDIDATES
from kb_pipeline.storage import regime_vectors
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.recommend_events import Source
from kb_pipeline.storage.session import in_its_workspace, require_workspace


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A tune or run of any strategy, and how far its regime is from the one asked about.

    `score` is its Sharpe ratio out of sample, None where it has none.
    """

    source_type: str
    id: str
    run_id: str | None
    strategy: str | None
    timeframe: str | None
    objective: str | None
    regime_key: str | None
    distance: float
    contributions: list[Contribution]
    score: float | None
    params: Any


@dataclass(frozen=True, slots=True)
class SimilarAnswer:
    """The nearest first, and of them the best of each strategy, timeframe and objective."""

    asked: str
    regime_key: str
    neighbours: list[Neighbour]
    warnings: list[str]

    @property
    def worked(self) -> list[Neighbour]:
        """The best scored neighbour of each strategy, timeframe and objective: only these compare."""
        best: dict[tuple[str | None, ...], Neighbour] = {}
        for it in self.neighbours:
            group = (it.strategy, it.timeframe, it.objective)
            if it.score is not None and (group not in best or it.score > (best[group].score or 0)):
                best[group] = it
        return sorted(best.values(), key=lambda it: (str(it.strategy), str(it.timeframe), str(it.objective)))

    def to_dict(self) -> dict[str, Any]:
        """Return everything for machines."""
        return asdict(self) | {
            "neighbours": [_to_dict(it) for it in self.neighbours],
            "worked": [it.id for it in self.worked],
        }

    def to_text(self) -> str:
        """Return everything for people."""
        lines = [printable(f"Nearest to {self.asked}, {self.regime_key}")]
        warnings = [f"Warning: {printable(it)}" for it in self.warnings]
        if not self.neighbours:
            nothing = "no attributed tune or ingested run that shares four features with it."
            return "\n".join([*lines, f"Nothing to compare with: {nothing}", *warnings])
        rows = [
            (
                *(f"{it.distance:.2f}", _score_text(it.score), it.source_type, it.id),
                *(it.strategy or "?", it.timeframe or "?", it.regime_key or "?"),
                contributions_text(it.contributions),
            )
            for it in self.neighbours
        ]
        header = ("distance", "score", "what", "id", "strategy", "timeframe", "regime", "mostly by")
        lines += [table(header, rows), "", "What worked there"]
        worked = [
            (
                *(_score_text(it.score), it.strategy or "?", it.timeframe or "?", it.objective or "?"),
                *(it.id, json.dumps(it.params)),
            )
            for it in self.worked
        ]
        lines += [table(("score", "strategy", "timeframe", "objective", "id", "parameters"), worked)]
        return "\n".join([*lines, *warnings])


@in_its_workspace
def similar(
    connection: Connection,
    workspace_id: UUID,
    *,
    run_id: UUID | None = None,
    ohlcv_file: Path | None = None,
    timeframe: str | None = None,
    k: int = RECOMMENDED_CANDIDATES,
    rebuild: bool = False,
    progress: Progress = lambda _packed, _changed: None,
) -> SimilarAnswer:
    """Return the k tunes and runs of a workspace whose regimes are nearest to a run's or a file's.

    `rebuild` packs all regimes of the workspace anew first; `progress` hears how far packing is.

    Raises:
        BadArgumentError: Not exactly one of a run and a file was given, or one is unknown.
        OhlcvFileError: The price file is refused.
    """
    if (run_id is None) == (ohlcv_file is None):
        raise BadArgumentError("Give exactly one of --run and --ohlcv-file to ask about.")
    require_workspace(connection, workspace_id)
    subject = subject_of(connection, workspace_id, run_id=run_id, ohlcv_file=ohlcv_file, timeframe=timeframe)
    if rebuild:
        regime_vectors.start_over(connection, workspace_id)
    scales = vectors.pack_changes(connection, workspace_id, progress)
    warnings = [*subject.warnings, *scales.warnings]
    if subject.features is None or scales.values is None:
        return SimilarAnswer(subject.label, subject.regime_key, [], warnings)
    sources = vectors.nearest_sources(
        connection, workspace_id, subject.features, scales.values, k + len(subject.itself), scored=False
    )
    others = [it for it in sources if it.id not in subject.itself][:k]
    apart = vectors.apart_from(connection, workspace_id, subject.features, scales.values, others)
    return SimilarAnswer(subject.label, subject.regime_key, _neighbours(others, apart), warnings)


def _neighbours(sources: Sequence[Source], apart: dict[str, Apart]) -> list[Neighbour]:
    found = [
        Neighbour(
            source_type=it.source_type,
            id=it.id,
            run_id=it.run_id,
            strategy=it.strategy,
            timeframe=it.timeframe,
            objective=it.objective,
            regime_key=it.regime_key,
            **apart[it.id]._asdict(),
            score=it.score if is_score(it.score) else None,
            params=params_of(it.params),
        )
        for it in sources
        if it.id in apart
    ]
    return sorted(found, key=lambda it: (it.distance, it.id))


def _to_dict(neighbour: Neighbour) -> dict[str, Any]:
    return asdict(neighbour) | {"contributions": [it._asdict() for it in neighbour.contributions]}


def _score_text(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"
