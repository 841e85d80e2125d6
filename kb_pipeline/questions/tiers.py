"""Walk the tiers of a recommendation, from the same regime to any, until there is enough evidence."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Final
from uuid import UUID

from kb_pipeline.domain.matching import matched_dimensions, tier_keys
from kb_pipeline.questions import vectors
from kb_pipeline.questions.recommendation import Candidate
from kb_pipeline.questions.subject import Subject
from kb_pipeline.questions.vectors import Apart, Scales
from kb_pipeline.questions.words import params_of
from kb_pipeline.rules import RECOMMENDED_CANDIDATES, TIERS
from kb_pipeline.storage import recommend_events
from kb_pipeline.storage.postgres import Connection
from kb_pipeline.storage.recommend_events import ScoreGroup, Source, Tier, Walked

_DISTANCE: Final = "distance"
_LAST: Final = tuple(TIERS)[-1]
"""Takes any regime."""

Found = Mapping[str, Sequence[Source]]
"""What each tier walked found, best first, in the order walked."""


class Walk:
    """One walk; `warnings` says what the asker should know of it.

    The tiers by key are asked for where it is made, in one statement that also finds the strategy where only
    its name is known; `run` takes the answer, and asks on where that is not enough.
    """

    def __init__(
        self,
        connection: Connection,
        workspace_id: UUID,
        subject: Subject,
        group: ScoreGroup,
        scales: Scales,
        *,
        k: int,
        min_samples: int,
        name: str | None = None,
    ) -> None:
        self._connection, self._workspace_id = connection, workspace_id
        self._subject, self._group = subject, group
        self._scales, self._min_samples = scales, min_samples
        self.warnings = list(scales.warnings)
        most = max(k, min_samples, RECOMMENDED_CANDIDATES)  # a small k hides no evidence
        self._most = {tier: cap or most for tier, (_, cap) in TIERS.items()}
        self._found: dict[str, list[Source]] = {}
        self._seen, self._left_out = set[str](), set[str]()
        self._answer = recommend_events.ask_tiers(
            connection,
            workspace_id,
            group,
            {tier: Tier(keys, self._most[tier]) for tier, keys in tier_keys(subject.regime_key).items()},
            min_samples,
            name=name,
            itself=subject.itself,
        )

    @cached_property
    def _walked(self) -> Walked:
        return self._answer()

    def settle(self, strategy_of: Callable[[Sequence[tuple[str, str]]], tuple[str, str]]) -> tuple[str, str]:
        """Return the id and name of the strategy that is chosen of those found, and go on with that one."""
        strategy_id, name = strategy_of(self._walked.strategies)
        self._group = self._group._replace(strategy_id=strategy_id)
        return strategy_id, name

    def run(self) -> Found:
        """Return what the tiers found, ending with the one that brought it to `min_samples`."""
        for tier, sources in self._walked.tiers.items():
            self._take(tier, sources)
        for tier, look in ((_DISTANCE, self._nearest), (_LAST, self._best_of_any)):
            if len(self._seen) < self._min_samples:
                # enough of them to take away what the question is about
                self._take(tier, look(self._most[tier] + len(self._subject.itself)))
        if self._left_out:
            named = ", ".join(sorted(self._left_out))
            self.warnings.append(f"Left out, because the question is about it: {named}.")
        return self._found

    def _take(self, tier: str, sources: Sequence[Source]) -> None:
        itself = self._subject.itself
        self._left_out |= itself & {it.id for it in sources}
        taken = [it for it in sources if it.id not in self._seen | itself][: self._most[tier]]
        self._found[tier] = sorted(taken, key=lambda it: (-(it.score or 0), it.id))
        self._seen |= {it.id for it in taken}

    def _nearest(self, rows: int) -> list[Source]:
        asked, scales = self._subject.features, self._scales.values
        if asked is None or scales is None:
            return []
        count = rows + len(self._seen)
        return vectors.nearest_sources(
            self._connection, self._workspace_id, asked, scales, count, group=self._group
        )

    def _best_of_any(self, rows: int) -> list[Source]:
        return recommend_events.best_of_any(
            self._connection, self._workspace_id, self._group, rows, self._seen
        )

    def candidates(self, found: Found, k: int) -> list[Candidate]:
        """Return the first k of what was found with their evidence, distances where there was a snapshot."""
        offered = [(tier, it) for tier, sources in found.items() for it in sources][:k]
        apart = self._apart([it for _, it in offered])
        return [
            Candidate(
                tier=tier,
                source_type=it.source_type,
                id=it.id,
                run_id=it.run_id,
                regime_key=it.regime_key,
                matched=matched_dimensions(self._subject.regime_key, it.regime_key),
                n=len(found[tier]),
                score=it.score or 0.0,
                params=params_of(it.params),
                **(apart[it.id]._asdict() if it.id in apart else {}),
            )
            for tier, it in offered
        ]

    def _apart(self, sources: Sequence[Source]) -> dict[str, Apart]:
        asked, scales = self._subject.features, self._scales.values
        if asked is None or scales is None:
            return {}
        return vectors.apart_from(self._connection, self._workspace_id, asked, scales, sources)
