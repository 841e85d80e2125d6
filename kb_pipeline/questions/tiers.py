"""Walk the tiers of a recommendation, from the same regime to any, until there is enough evidence."""

from collections.abc import Mapping, Sequence
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
from kb_pipeline.storage.recommend_events import ScoreGroup, Source

Found = Mapping[str, Sequence[Source]]
"""What each tier walked found, best first, in the order walked."""


class Walk:
    """One walk; `warnings` says what the asker should know of it."""

    def __init__(
        self,
        connection: Connection,
        workspace_id: UUID,
        subject: Subject,
        group: ScoreGroup,
        scales: Scales,
    ) -> None:
        self._connection, self._workspace_id = connection, workspace_id
        self._subject, self._group = subject, group
        self._scales = scales
        self.warnings = list(scales.warnings)

    def run(self, k: int, min_samples: int) -> Found:
        """Return what the tiers found, ending with the one that brought it to `min_samples`."""
        found: dict[str, list[Source]] = {}
        seen, itself = set[str](), self._subject.itself
        left_out = set[str]()
        for tier, (_, cap) in TIERS.items():
            if len(seen) >= min_samples:
                break
            most = cap or max(k, min_samples, RECOMMENDED_CANDIDATES)  # a small k hides no evidence
            # enough of them to take away what the question is about
            sources = self._tier(tier, most + len(itself), seen)
            left_out |= itself & {it.id for it in sources}
            taken = [it for it in sources if it.id not in seen | itself][:most]
            found[tier] = sorted(taken, key=lambda it: (-(it.score or 0), it.id))
            seen |= {it.id for it in taken}
        if left_out:
            named = ", ".join(sorted(left_out))
            self.warnings.append(f"Left out, because the question is about it: {named}.")
        return found

    def _tier(self, tier: str, rows: int, known: set[str]) -> list[Source]:
        if tier != "distance":
            keys = tier_keys(self._subject.regime_key).get(tier)
            if keys is None:  # the tier that takes any regime
                keys = recommend_events.group_keys(self._connection, self._workspace_id, self._group)
            return recommend_events.candidates(
                self._connection, self._workspace_id, self._group, keys, rows, known
            )
        asked, scales = self._subject.features, self._scales.values
        if asked is None or scales is None:
            return []
        return vectors.nearest_sources(
            self._connection, self._workspace_id, asked, scales, rows + len(known), group=self._group
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
