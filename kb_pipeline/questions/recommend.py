"""Recommend parameters of a strategy for a regime, with their evidence, and log the call."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg

from kb_pipeline.domain.matching import regime_parts
from kb_pipeline.domain.regime import RegimeSnapshot
from kb_pipeline.errors import BadArgumentError
from kb_pipeline.questions.groups import choose_group, suggestions
from kb_pipeline.questions.recommendation import Recommendation
from kb_pipeline.questions.subject import Subject, only_strategy, strategy_of, subject_of
from kb_pipeline.questions.tiers import Walk
from kb_pipeline.questions.vectors import Progress, Scales, pack_changes
from kb_pipeline.questions.words import NOTHING_ATTRIBUTED
from kb_pipeline.rules import MIN_SAMPLES, RECOMMENDED_CANDIDATES, REGIME_SCHEMA_VERSION, TIERS
from kb_pipeline.storage import recommend_events
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.recommend_events import ScoreGroup
from kb_pipeline.storage.session import in_its_workspace, plans_kept

DISTANCE_METHOD: Final = "euclidean_mad"
"""How distances were made, as it is logged."""

_NO_SCALES: Final = Scales(None, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendRequest:
    """What is asked. `strategy` is an id or a name; exactly one of the four forms of a regime is given.

    `timeframe` and `objective` say which scores to rank. By default the timeframe is that of the run,
    file or snapshot, and what is still open falls to the kind with most candidates.
    """

    workspace_id: UUID
    strategy: str
    regime_key: str | None = None
    snapshot: RegimeSnapshot | None = None
    run_id: UUID | None = None
    ohlcv_file: Path | None = None
    timeframe: str | None = None
    objective: str | None = None
    k: int = RECOMMENDED_CANDIDATES
    min_samples: int = MIN_SAMPLES

    def __post_init__(self) -> None:
        if min(self.k, self.min_samples) < 1:
            raise BadArgumentError(
                f"k is {self.k} and min_samples is {self.min_samples}, but both must be at least 1."
            )


@in_its_workspace
def recommend(
    connection: Connection,
    request: RecommendRequest,
    progress: Progress = lambda _packed, _changed: None,
) -> Recommendation:
    """Return the best parameters of a strategy for a regime, cut to `k`.

    Tiers are walked in order until `min_samples` candidates are found. A call that cannot be logged,
    as with a role that may only read, is answered all the same and says so. `progress` hears how far
    packing the regimes is that changed since the last question of a distance.

    Raises:
        BadArgumentError: The workspace, strategy, run or key is unknown, or what is asked about was
            given in none or several forms.
        OhlcvFileError: The price file is refused.
    """
    with plans_kept(connection):
        return _recommend(connection, request, progress)


def _recommend(connection: Connection, request: RecommendRequest, progress: Progress) -> Recommendation:
    begin = time.perf_counter()
    if request.regime_key is not None:
        return _logged(connection, request, lambda: _asked_by_key(connection, request), _NO_SCALES, begin)
    # a file may take long to read, and packing commits as it goes: neither in the question's transaction
    asked = _asked(connection, request)
    scales = pack_changes(connection, request.workspace_id, progress)
    return _logged(connection, request, lambda: asked, scales, begin)


class _Asked(NamedTuple):
    strategy_id: str
    strategy: str
    subject: Subject
    walk: Walk | None = None


def _asked(connection: Connection, request: RecommendRequest) -> _Asked:
    strategy_id, strategy = strategy_of(connection, request.workspace_id, request.strategy)
    return _Asked(strategy_id, strategy, _subject(connection, request))


def _asked_by_key(connection: Connection, request: RecommendRequest) -> _Asked:
    """Ask for the strategy and the tiers in one statement, where it is known which scores to rank."""
    if not (request.timeframe and request.objective):
        return _asked(connection, request)
    subject = _subject(connection, request)
    group = ScoreGroup(request.strategy, request.timeframe, request.objective)
    walk = _walk(connection, request, subject, group, _NO_SCALES, request.strategy)
    of_names = partial(only_strategy, connection, request.workspace_id, request.strategy)
    return _Asked(*walk.settle(of_names), subject, walk)


def _walk(
    connection: Connection,
    request: RecommendRequest,
    subject: Subject,
    group: ScoreGroup,
    scales: Scales,
    name: str | None = None,
) -> Walk:
    return Walk(
        connection,
        request.workspace_id,
        subject,
        group,
        scales,
        k=request.k,
        min_samples=request.min_samples,
        name=name,
    )


def _logged(
    connection: Connection,
    request: RecommendRequest,
    asked: Callable[[], _Asked],
    scales: Scales,
    begin: float,
) -> Recommendation:
    """Answer and log in one transaction, because each of its own names the workspace to Postgres again."""
    answer = None
    is_short = request.regime_key is not None  # distances stream their rows, which a quick one cannot
    try:
        with connection.quick_transaction() if is_short else connection.transaction():
            question = asked()
            answer = _answer(connection, request, question, scales)
            spent_ms = (time.perf_counter() - begin) * 1e3
            recommend_events.log_event(connection, _event(request, question.subject, answer, spent_ms))
    except psycopg.Error as error:
        if answer is None:
            raise
        answer.warnings.append(f"This call could not be logged: {error.diag.message_primary or error}")
    return answer


def _answer(
    connection: Connection, request: RecommendRequest, asked: _Asked, scales: Scales
) -> Recommendation:
    strategy_id, strategy, subject, _ = asked
    timeframe = request.timeframe or subject.timeframe
    choice = choose_group(connection, request.workspace_id, strategy_id, timeframe, request.objective)
    walk = asked.walk or _walk(connection, request, subject, choice.group, scales)
    found = walk.run()
    answer = Recommendation(
        workspace_id=str(request.workspace_id),
        strategy=strategy,
        asked=subject.label,
        regime_key=subject.regime_key,
        **choice.group._asdict(),
        k=request.k,
        min_samples=request.min_samples,
        counts={tier: len(sources) for tier, sources in found.items()},
        candidates=walk.candidates(found, request.k),
        warnings=[*subject.warnings, *choice.warnings, *walk.warnings],
    )
    answer.warnings.extend(_thin(answer))
    if not answer.is_sufficient:
        everything = [it for sources in found.values() for it in sources]
        answer.suggestions.extend(
            suggestions(connection, request.workspace_id, choice.group, subject.regime_key, everything)
        )
    if not (answer.candidates or recommend_events.score_groups(connection, request.workspace_id)):
        answer.warnings.append(NOTHING_ATTRIBUTED)
    return answer


def _subject(connection: Connection, request: RecommendRequest) -> Subject:
    return subject_of(
        connection,
        request.workspace_id,
        regime_key=request.regime_key,
        snapshot=request.snapshot,
        run_id=request.run_id,
        ohlcv_file=request.ohlcv_file,
        timeframe=request.timeframe,
    )


def _thin(answer: Recommendation) -> Iterator[str]:
    """Yield what there is to say about samples that are few."""
    total, exact = sum(answer.counts.values()), answer.counts["exact"]
    if total < answer.min_samples:
        yield f"{_candidates(total)} in all tiers, fewer than the {answer.min_samples} asked for."
    elif exact < answer.min_samples:
        yield (
            f"The regime itself has {_candidates(exact)}, fewer than the {answer.min_samples} asked for; "
            f"the others are from the tiers down to {answer.tier_used}."
        )


def _candidates(count: int) -> str:
    return "1 candidate" if count == 1 else f"{count} candidates"


def _event(request: RecommendRequest, subject: Subject, answer: Recommendation, ms: float) -> dict[str, Any]:
    parts = regime_parts(answer.regime_key)
    return {
        "workspace_id": request.workspace_id,
        "strategy_id": answer.strategy_id,
        "regime_key": answer.regime_key,
        "trend": parts.trend_tag,
        "vol": parts.vol_tag,
        "timeframe": answer.timeframe,
        "objective": answer.objective,
        "tier_used": answer.tier_used,
        "tiers": json.dumps(list(answer.counts)),
        **{tier: answer.counts.get(tier, 0) for tier in TIERS},
        "k": answer.k,
        "min_samples": answer.min_samples,
        "candidates": len(answer.candidates),
        "top_score": answer.candidates[0].score if answer.candidates else None,
        "confidence": answer.confidence,
        "duration_ms": ms,
        "distance_method": None if subject.features is None else DISTANCE_METHOD,
        "features_version": None if subject.features is None else REGIME_SCHEMA_VERSION,
    }
