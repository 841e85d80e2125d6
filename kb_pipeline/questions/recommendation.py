"""The answer of `recommend`: candidates with their evidence, as text, as JSON and as Optuna's trials."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

from kb_pipeline.domain.matching import Contribution, contributions_text
from kb_pipeline.plain_text import printable
from kb_pipeline.rules import TIERS

NO_TIER: Final = "none"
"""Stands where no tier found anything."""

_TIER_WORDS: Final = {
    "exact": "the same regime",
    "partial_trend_vol": "the same trend and volatility",
    "partial_trend": "the same trend",
    "partial_vol": "the same volatility",
    "distance": "a regime near by distance",
    "global_best": "any regime",
}
_LARGEST_NUMBER: Final = 1e300


# Not frozen: setting the fields of twenty frozen ones takes a fortieth of a quick answer's time.
@dataclass(slots=True, kw_only=True)
class Candidate:
    """Parameters that worked, and why they are offered.

    `source_type` is `tune` or `run`, `id` that tune's or run's and `run_id` the run that was scored.
    `matched` names the dimensions of the regime key that agree. `n` is the number of candidates its
    tier found. `score` is a Sharpe ratio out of sample. `distance` is None where only a key was asked
    about or the two snapshots share too few features.
    """

    tier: str
    source_type: str
    id: str
    run_id: str | None
    regime_key: str | None
    matched: list[str]
    n: int
    score: float
    params: Any
    distance: float | None = None
    contributions: list[Contribution] = field(default_factory=list)

    @property
    def explanation(self) -> str:
        """Why it is offered, in one sentence."""
        verb = "agrees" if len(self.matched) == 1 else "agree"
        agree = f" ({', '.join(self.matched)} {verb})" if self.matched else ""
        apart = "" if self.distance is None else f", {self.distance:.2f} away"
        mostly = f", mostly by {contributions_text(self.contributions)}" if self.contributions else ""
        return (
            f"{self.source_type.capitalize()} {self.id} scored {self.score:.3f} out of sample in "
            f"{_TIER_WORDS[self.tier]}{agree}, one of {self.n} found there{apart}{mostly}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything for machines."""
        contributions = [it._asdict() for it in self.contributions]
        return asdict(self) | {"contributions": contributions, "explanation": self.explanation}


class Suggestion(NamedTuple):
    """One relaxation of the question and how many candidates it would give."""

    option: str
    candidates: int

    def __str__(self) -> str:
        return f"{self.option} would give {self.candidates:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """Candidates in tier order, and what is to be thought of them.

    `tier_used` is the tier that sufficed, or the last one that found any; `confidence` is that tier's.
    `counts` are the candidates each tier walked found, before the cut to k.
    """

    workspace_id: str
    strategy_id: str
    strategy: str
    asked: str
    regime_key: str
    timeframe: str
    objective: str
    k: int
    min_samples: int
    counts: dict[str, int]
    candidates: list[Candidate]
    warnings: list[str] = field(default_factory=list)
    suggestions: list[Suggestion] = field(default_factory=list)

    @property
    def tier_used(self) -> str:
        """The tier that sufficed, else the last one that found any, else `none`."""
        return next((tier for tier in reversed(self.counts) if self.counts[tier]), NO_TIER)

    @property
    def is_sufficient(self) -> bool:
        """Whether the tiers found the candidates asked for."""
        return sum(self.counts.values()) >= self.min_samples

    @property
    def confidence(self) -> float | None:
        """How much the tier used is worth, None where nothing was found."""
        return TIERS[self.tier_used][0] if self.tier_used in TIERS else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything for machines."""
        return {
            **asdict(self),
            "tier_used": self.tier_used,
            "sufficient": self.is_sufficient,
            "confidence": self.confidence,
            "candidates": [it.to_dict() for it in self.candidates],
            "suggestions": [it._asdict() for it in self.suggestions],
        }

    def to_text(self) -> str:
        """Return everything for people."""
        counts = ", ".join(f"{tier} {count}" for tier, count in self.counts.items())
        confidence = "" if self.confidence is None else f", confidence {self.confidence:g}"
        lines = [
            f"{self.strategy} in {self.regime_key} ({self.asked}), {self.timeframe} bars, "
            f"objective {self.objective}",
            f"Tier: {self.tier_used}{confidence}; found: {counts or 'nothing'}",
        ]
        for rank, it in enumerate(self.candidates, start=1):
            lines += [f"{rank:>3}. {json.dumps(it.params)}", f"     {it.explanation}"]
        lines += [f"Warning: {it}" for it in self.warnings]
        lines += [f"Try: {it}" for it in self.suggestions]
        return "\n".join(map(printable, lines))


def optuna_trials(candidates: list[Candidate]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return parameter sets that `study.enqueue_trial` takes, and a sentence about what is left out.

    Optuna knows numbers, text, truth values and None; a parameter that is a list or an object cannot be
    suggested and is left out of its set. Of equal sets the first is kept.
    """
    trials: dict[str, dict[str, Any]] = {}
    left_out: set[str] = set()
    for candidate in candidates:
        params = candidate.params if isinstance(candidate.params, Mapping) else {}
        taken = {name: value for name, value in params.items() if _is_scalar(value)}
        left_out |= params.keys() - taken.keys()
        if taken:
            trials.setdefault(json.dumps(taken, sort_keys=True), taken)
    notes = (
        [f"left out, because Optuna cannot suggest them: {', '.join(sorted(left_out))}"] if left_out else []
    )
    return list(trials.values()), [printable(it) for it in notes]


def _is_scalar(value: Any) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return abs(value) < _LARGEST_NUMBER
    return value is None or isinstance(value, str | bool)
