"""Choose which scores are ranked against each other, and say what another choice would give."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from kb_pipeline.domain.matching import DIMENSIONS, matched_dimensions
from kb_pipeline.plain_text import printable
from kb_pipeline.questions.recommendation import Suggestion
from kb_pipeline.rules import MAX_COUNTED
from kb_pipeline.storage import questions, recommend_events
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.recommend_events import ScoreGroup, Source

_DEFAULT_OBJECTIVE: Final = "sharpe"
_UNKNOWN: Final = "unknown"


class Choice(NamedTuple):
    """The scores to rank, and a warning where others were passed over."""

    group: ScoreGroup
    warnings: list[str]


def choose_group(
    connection: Connection, workspace_id: UUID, strategy_id: str, timeframe: str | None, objective: str | None
) -> Choice:
    """Return the group asked for, and of what is left open the one with most candidates.

    Candidates are counted up to `MAX_COUNTED`; among equals the objective `sharpe` comes first.
    """
    if timeframe and objective:
        return Choice(ScoreGroup(strategy_id, timeframe, objective), [])
    groups = recommend_events.score_groups(connection, workspace_id, strategy_id)
    fitting = [it for it in groups if timeframe in (None, it.timeframe) and objective in (None, it.objective)]
    if not fitting:
        # What was left open is as elsewhere in the strategy, so that one relaxation leads there.
        elsewhere = sorted(groups, key=lambda it: it.objective != _DEFAULT_OBJECTIVE)
        near = next(iter(elsewhere), ScoreGroup(strategy_id, _UNKNOWN, _DEFAULT_OBJECTIVE))
        return Choice(near._replace(**_given(timeframe, objective)), [])
    if len(fitting) == 1:
        return Choice(fitting[0], [])
    counts = recommend_events.count_candidates(connection, workspace_id, fitting, MAX_COUNTED)
    (_, first), *others = sorted(
        zip(counts, fitting, strict=True),
        key=lambda it: (-it[0], it[1].objective != _DEFAULT_OBJECTIVE, it[1]),
    )
    named = ", ".join(f"{_kind(group)} ({_counted(count)})" for count, group in others)
    warning = (
        "Scores of different timeframes or objectives do not compare: these are of "
        f"{_kind(first)}, which has most candidates. --timeframe and --objective ask for others: {named}."
    )
    return Choice(first, [warning])


def _given(timeframe: str | None, objective: str | None) -> dict[str, str]:
    named = {"timeframe": timeframe, "objective": objective}
    return {name: value for name, value in named.items() if value}


def _kind(group: ScoreGroup) -> str:
    return printable(f"{group.timeframe} {group.objective}")


def _counted(count: int) -> str:
    return f"{count:,} or more" if count >= MAX_COUNTED else f"{count:,}"


def suggestions(
    connection: Connection, workspace_id: UUID, group: ScoreGroup, asked_key: str, found: Sequence[Source]
) -> list[Suggestion]:
    """Return which single relaxation of a question would give how many candidates, none of zero.

    `found` is all that the group has, which is too little: less of it may do, or another timeframe,
    objective or strategy may have more.
    """
    fewer = [Suggestion(f"--min-samples {len(found)}", len(found))] if found else []
    return [
        *fewer,
        *_of_dimensions(asked_key, found),
        *_of_other_groups(connection, workspace_id, group),
    ]


def _of_dimensions(asked_key: str, found: Sequence[Source]) -> Iterator[Suggestion]:
    """Yield how many agree in all dimensions but one."""
    matched = [set(matched_dimensions(asked_key, it.regime_key)) for it in found]
    for name in DIMENSIONS:
        rest = DIMENSIONS.keys() - {name}
        count = sum(rest <= them for them in matched)
        if count:
            yield Suggestion(f"any {name}, with the rest of the regime the same,", count)


def _of_other_groups(connection: Connection, workspace_id: UUID, group: ScoreGroup) -> Iterator[Suggestion]:
    """Yield how many candidates each group has that differs in timeframe, objective or strategy alone."""
    names: dict[str, str] = dict(questions.strategies(connection, workspace_id))
    others = [
        it
        for it in recommend_events.score_groups(connection, workspace_id)
        if sum(one != other for one, other in zip(it, group, strict=True)) == 1
    ]
    counts = recommend_events.count_candidates(connection, workspace_id, others, MAX_COUNTED)
    for it, count in sorted(zip(others, counts, strict=True), key=lambda pair: -pair[1]):
        if not count:
            continue
        if it.timeframe != group.timeframe:
            yield Suggestion(f"--timeframe {printable(it.timeframe)}", count)
        elif it.objective != group.objective:
            yield Suggestion(f"--objective {printable(it.objective)}", count)
        else:
            yield Suggestion(f"--strategy {printable(names.get(it.strategy_id) or it.strategy_id)}", count)
