"""What was found of drift, for people and for machines."""

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from kb_pipeline.domain.drift import DriftVerdict, MovedFeature
from kb_pipeline.plain_text import printable
from kb_pipeline.questions.words import table
from kb_pipeline.rules import (
    DRIFT_CONSECUTIVE,
    DRIFT_FAR_BARS,
    DRIFT_RARE_SHARE,
    MIN_DRIFT_SNAPSHOTS,
    MIN_WINDOW_BARS,
    REGIME_KEY_SEPARATOR,
    DriftReason,
)

_HEADER: Final = ("strategy", "symbol", "bars", "newest bar", "verdict", "regime now", "distance", "limit")
_NAMED_KEYS: Final = 3


@dataclass(frozen=True, slots=True)
class DriftEvaluation:
    """The verdict about one series at its newest bar; `is_new_event` where an event begins with it."""

    strategy_id: str
    strategy: str
    symbol: str
    timeframe: str
    newest_bar: datetime
    verdict: DriftVerdict
    is_new_event: bool = False

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        where = f"{self.strategy} on {self.symbol} {self.timeframe}, bars to {_moment(self.newest_bar)}"
        return printable(f"{where}: {_found(self.verdict)}")

    def to_dict(self) -> dict[str, Any]:
        """Return everything for machines."""
        verdict = asdict(self.verdict) | {"moved": [it._asdict() for it in self.verdict.moved]}
        return {
            "strategy_id": self.strategy_id,
            "strategy": self.strategy,
            "symbol": self.symbol,
            "timeframe": self.timeframe,
            "newest_bar": self.newest_bar.isoformat(),
            "is_alarm": self.verdict.is_alarm,
            "is_new_event": self.is_new_event,
            "sentence": self.sentence,
            **verdict,
        }


@dataclass(frozen=True, slots=True)
class DriftSkip:
    """A series that could not be looked at; `detail` says what to do."""

    strategy: str
    symbol: str | None
    timeframe: str | None
    reason: DriftReason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """All series looked at, those skipped, and who was told of what.

    `told` are sentences of events that reached a receiver, `untold` says why telling failed; `notes` is
    what else to know, and `nothing` is said where there was no series to look at.
    """

    workspace_id: UUID
    dry_run: bool
    evaluations: list[DriftEvaluation]
    skipped: list[DriftSkip]
    told: list[str]
    untold: list[str]
    notes: list[str]
    nothing: str = "No attributed tune to look at. Run: kb-pipeline backfill-attribution"

    @property
    def alarms(self) -> list[DriftEvaluation]:
        """The series whose regime counts as left."""
        return [it for it in self.evaluations if it.verdict.is_alarm]

    def to_dict(self) -> dict[str, Any]:
        """Return everything for machines."""
        return {
            "workspace_id": str(self.workspace_id),
            "dry_run": self.dry_run,
            "evaluated": len(self.evaluations),
            "alarms": len(self.alarms),
            "new_events": sum(it.is_new_event for it in self.evaluations),
            "verdicts": dict(Counter(str(it.verdict.reason) for it in self.evaluations)),
            "evaluations": [it.to_dict() for it in self.evaluations],
            "skipped": [asdict(it) for it in self.skipped],
            "told": self.told,
            "untold": self.untold,
            "notes": self._remarks(),
        }

    def _remarks(self) -> list[str]:
        return self.notes if self.evaluations or self.skipped else [self.nothing, *self.notes]

    def to_text(self) -> str:
        """Return everything for people: a table, a sentence for each alarm, what was skipped."""
        if not self.evaluations and not self.skipped:
            return "\n".join(map(printable, self._remarks()))
        new = sum(it.is_new_event for it in self.evaluations)
        kept = "nothing kept (dry run)" if self.dry_run else f"new events {new}"
        lines = [table(_HEADER, [_cells(it) for it in self.evaluations])] if self.evaluations else []
        lines += ["", f"evaluated {len(self.evaluations)}, in alarm {len(self.alarms)}, {kept}"]
        lines += [f"ALARM  {it.sentence}" for it in self.alarms]
        lines += [f"Told: {printable(it)}" for it in self.told]
        lines += [f"Not told: {printable(it)}" for it in self.untold]
        if self.skipped:
            rows = [
                (it.strategy, it.symbol or "?", it.timeframe or "?", str(it.reason), it.detail)
                for it in self.skipped
            ]
            lines += ["", "Skipped", table(("strategy", "symbol", "bars", "reason", "why"), rows)]
        return "\n".join([*lines, *map(printable, self._remarks())]).lstrip("\n")


def _cells(evaluation: DriftEvaluation) -> tuple[str, ...]:
    verdict = evaluation.verdict
    return (
        evaluation.strategy,
        evaluation.symbol,
        evaluation.timeframe,
        _moment(evaluation.newest_bar),
        str(verdict.reason),
        short_key(verdict.key_now),
        _number(verdict.distance),
        _number(verdict.limit),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _moment(time: datetime) -> str:
    return f"{time:%Y-%m-%d}" if time.hour == time.minute == 0 else f"{time:%Y-%m-%d %H:%M}Z"


def short_key(regime_key: str | None) -> str:
    """Return a key without its version and ruleset, such as uptrend/high_vol/_."""
    return "/".join((regime_key or "").split(REGIME_KEY_SEPARATOR)[2:]) or "-"


def moved_text(moved: tuple[MovedFeature, ...]) -> str:
    """Return the features that moved, such as `atr_pct 0.012 to 0.045 (+5.1 deviations)`."""
    return ", ".join(
        f"{it.feature} {it.then:.3g} to {it.now:.3g} ({it.size:+.1f} deviations)" for it in moved
    )


def _found(verdict: DriftVerdict) -> str:
    """Return a verdict in words."""
    simple = {
        DriftReason.STABLE: "like the regimes the parameters were chosen in",
        DriftReason.KEY_DIFFERS_BY_CHANCE: f"{short_key(verdict.key_now)} is another regime than those tuned "
        "in, but one that their own bars, resampled, often make",
        DriftReason.UNCONFIRMED: "looks like drift, but not for long enough yet",
        DriftReason.TOO_FEW_TRAINING_SNAPSHOTS: f"{verdict.windows_apart} training windows are apart from "
        f"each other, a distance needs {MIN_DRIFT_SNAPSHOTS}",
        DriftReason.TRAINING_BARS_MISSING: f"the bars of {verdict.windows_apart} training windows are at "
        f"hand, a distance needs {MIN_DRIFT_SNAPSHOTS}",
        DriftReason.FEATURES_UNDEFINED: "too few features of the newest bars can be computed",
        DriftReason.NOT_ENOUGH_BARS: f"{verdict.bars} bars, a regime needs {MIN_WINDOW_BARS}",
        DriftReason.DISTANCE_BEYOND_NULL: _far(verdict),
        DriftReason.KEY_CHANGED: _left(verdict),
    }
    return simple[verdict.reason]


def _far(verdict: DriftVerdict) -> str:
    return (
        f"for {DRIFT_FAR_BARS} bars far from all {verdict.snapshots} training snapshots, now "
        f"{_number(verdict.distance)} from the nearest; {1 - DRIFT_RARE_SHARE:.0%} of the windows resampled "
        f"from theirs stay within {_number(verdict.limit)}. Moved: {moved_text(verdict.moved)}"
    )


def _left(verdict: DriftVerdict) -> str:
    then = [short_key(key) for key in verdict.keys_then]
    rest = f" and {len(then) - _NAMED_KEYS} more" if len(then) > _NAMED_KEYS else ""
    chance = (
        "no bars of theirs were at hand to tell how often chance does this"
        if verdict.key_share is None
        else f"at most {verdict.key_share:.1%} of windows resampled from one of them are so"
    )
    return (
        f"{short_key(verdict.key_now)} on {DRIFT_CONSECUTIVE} evaluations in a row; the parameters were "
        f"chosen in {', '.join(then[:_NAMED_KEYS])}{rest}; {chance}"
    )
