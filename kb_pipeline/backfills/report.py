"""What a backfill tells when it ends: counts that add up, as text for people and numbers for machines.

The text form is fixed to the character. Facts beyond it follow after its last line.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Final

from kb_pipeline.errors import ConservationError
from kb_pipeline.plain_text import printable
from kb_pipeline.rules import LISTED_ROWS_PER_REASON, BackfillKind, ExitCode

_WIDE_RULE: Final = "=" * 50
_THIN_RULE: Final = "-" * 50
_LABEL_WIDTH: Final = 16

Describe = Callable[[int], str]
"""Says more about one row of a page, in a few words; empty where there is no more to say."""


@dataclass(slots=True)
class Tally:
    """Where every scanned row went. `updated` means would-update in a dry run.

    `notices` are extra counts, `notes` extra sentences. `limit_reached` where the limit left rows unseen.
    """

    scanned: int = 0
    updated: int = 0
    changed_meanwhile: int = 0
    conflicts: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notices: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    interrupted: str | None = None
    limit_reached: bool = False

    def plus_page(self, ids: Sequence[str], outcomes: Sequence[str | None], describe: Describe) -> "Tally":
        """Return the tally with more rows scanned, those with a reason counted under it."""
        tally = self.plus_outcomes(ids, outcomes, describe)
        tally.scanned += len(ids)
        return tally

    def plus_outcomes(
        self, ids: Sequence[str], outcomes: Sequence[str | None], describe: Describe
    ) -> "Tally":
        """Return the tally with reasons added and the first rows of each kept for the listing."""
        counts = Counter(outcome for outcome in outcomes if outcome is not None)
        tally = replace(self, skipped=self.skipped + counts)
        if any(len(self.examples.get(reason, ())) < LISTED_ROWS_PER_REASON for reason in counts):
            tally.examples = _with_examples(self.examples, ids, outcomes, describe)
        return tally

    def without_conflicts(self, count: int) -> "Tally":
        """Return the tally before this many rows were counted as conflicts."""
        return replace(self, conflicts=self.conflicts - count)

    def totals(self) -> dict[str, Any]:
        """Return the counts by name, those of the reasons too, and what it was interrupted by."""
        names = ("scanned", "updated", "changed_meanwhile", "conflicts", "interrupted")
        return {**{name: getattr(self, name) for name in names}, "skipped": dict(self.skipped)}

    def check_conservation(self) -> None:
        """Raise ConservationError unless every scanned row is accounted for exactly once."""
        accounted = self.updated + self.skipped.total() + self.changed_meanwhile + self.conflicts
        if accounted != self.scanned:
            raise ConservationError(
                f"{self.scanned} rows were scanned but {accounted} are accounted for: "
                f"{self.updated} updated, {self.skipped.total()} skipped, "
                f"{self.changed_meanwhile} changed meanwhile, {self.conflicts} conflicts. "
                "This is a fault of the program; the batches already committed are sound."
            )


def _with_examples(
    before: Mapping[str, list[str]], ids: Sequence[str], outcomes: Sequence[str | None], describe: Describe
) -> dict[str, list[str]]:
    examples = {reason: list(known) for reason, known in before.items()}
    for row, reason in enumerate(outcomes):
        if reason is not None:
            known = examples.setdefault(reason, [])
            if len(known) < LISTED_ROWS_PER_REASON:
                known.append(f"{ids[row]} {describe(row)}".rstrip())
    return examples


@dataclass(frozen=True, slots=True, kw_only=True)
class OhlcvSource:
    """The price file a regime backfill read: path, symbol, timeframe, rows and days covered."""

    path: str
    symbol: str
    timeframe: str
    rows: int
    first_day: str
    last_day: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillReport:
    """What one backfill did, or would do. Counts are of rows."""

    kind: BackfillKind
    workspace_id: str
    dry_run: bool
    since: datetime | None
    limit: int | None
    scanned: int
    updated: int
    changed_meanwhile: int
    conflicts: int
    skipped: dict[str, int]
    examples: dict[str, list[str]]
    notices: dict[str, int]
    notes: list[str]
    interrupted: str | None
    limit_reached: bool
    ohlcv: OhlcvSource | None = None

    @classmethod
    def of(cls, tally: Tally, **facts: Any) -> "BackfillReport":
        """Return the report of a tally; reasons by descending count, then by name."""
        by_count = sorted(tally.skipped.items(), key=lambda item: (-item[1], item[0]))
        return cls(
            scanned=tally.scanned,
            updated=tally.updated,
            changed_meanwhile=tally.changed_meanwhile,
            conflicts=tally.conflicts,
            skipped=dict(by_count),
            examples=tally.examples,
            notices=dict(tally.notices),
            notes=tally.notes,
            interrupted=tally.interrupted,
            limit_reached=tally.limit_reached,
            **facts,
        )

    @property
    def eligible(self) -> int:
        """Rows the decision was to write, whether or not the write then found them unchanged."""
        return self.scanned - sum(self.skipped.values())

    @property
    def exit_code(self) -> int:
        """What a process that made this report ends with."""
        if self.interrupted:
            return ExitCode.TERMINATED if self.interrupted == "SIGTERM" else ExitCode.INTERRUPTED
        return ExitCode.CONFLICTS_REMAIN if self.conflicts else ExitCode.DONE

    def to_dict(self) -> dict[str, Any]:
        """Return the same numbers for machines; `updated` is 0 in a dry run, as in the text."""
        numbers = asdict(self)
        numbers["since"] = self.since.isoformat() if self.since else None
        numbers["eligible"] = self.eligible
        numbers["ineligible"] = self.scanned - self.eligible
        if self.dry_run:
            numbers["would_update"], numbers["updated"] = self.updated, 0
        return numbers

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> "BackfillReport":
        """Return the report of a real backfill from what to_dict gave."""
        own = {it.name: numbers[it.name] for it in fields(cls)}
        own["kind"] = BackfillKind(own["kind"])
        own["since"] = datetime.fromisoformat(own["since"]) if own["since"] else None
        own["ohlcv"] = OhlcvSource(**own["ohlcv"]) if own["ohlcv"] else None
        return cls(**own)

    def listing(self) -> str:
        """Return the first rows under each reason, a line each, and how many there are beside them."""
        lines: list[str] = []
        for reason, count in self.skipped.items():
            rows = [printable(row) for row in self.examples[reason]]
            rest = [f"... and {count - len(rows)} more"] if count > len(rows) else []
            lines += [f"{reason} ({count}):", *(f"  {line}" for line in (*rows, *rest))]
        return "\n".join(lines)

    def to_text(self) -> str:
        """Return the report as people know it, extra facts after its last line."""
        body = {
            BackfillKind.CANDIDACY: _candidacy_lines,
            BackfillKind.REGIME: _regime_lines,
            BackfillKind.ATTRIBUTION: _attribution_lines,
            BackfillKind.TRIALS: _trials_lines,
        }[self.kind](self)
        title = f"BACKFILL {self.kind.upper()} REPORT"
        return "\n".join([_WIDE_RULE, title, _WIDE_RULE, *body, _WIDE_RULE, *_extra_lines(self)])


def _labelled(label: str, value: object) -> str:
    return f"{label + ':':<{_LABEL_WIDTH}}{printable(str(value))}"


def _updated(report: BackfillReport) -> str:
    return _labelled("Updated", "0 (dry run)" if report.dry_run else report.updated)


def _scope_lines(report: BackfillReport) -> list[str]:
    since = "all" if report.since is None else report.since.isoformat().removesuffix("T00:00:00+00:00")
    return [
        _labelled("Workspace", report.workspace_id),
        _labelled("Since", since),
        _labelled("Limit", "none" if report.limit is None else report.limit),
        _labelled("Dry Run", report.dry_run),
        _THIN_RULE,
    ]


def _reason_lines(counts: Mapping[str, int], bullet: str) -> list[str]:
    width = max((len(reason) for reason in counts), default=0) + len(":  ")
    return [f"{bullet}{reason + ':':<{width}}{count}" for reason, count in counts.items()]


def _candidacy_lines(report: BackfillReport) -> list[str]:
    lines = [
        *_scope_lines(report),
        _labelled("Total Scanned", report.scanned),
        _labelled("Eligible", report.eligible),
        _labelled("Ineligible", report.scanned - report.eligible),
        _updated(report),
    ]
    if report.skipped:
        lines += [_THIN_RULE, "Rejection Reasons:", *_reason_lines(report.skipped, "  ")]
    return lines


def _regime_lines(report: BackfillReport) -> list[str]:
    assert report.ohlcv is not None  # noqa: S101 - the regime backfill always names its file
    return [
        _labelled("Workspace", report.workspace_id),
        _labelled("OHLCV File", report.ohlcv.path),
        _labelled("Symbol", report.ohlcv.symbol),
        _labelled("Timeframe", report.ohlcv.timeframe),
        _labelled("OHLCV Rows", report.ohlcv.rows),
        _labelled("Date Range", f"{report.ohlcv.first_day} to {report.ohlcv.last_day}"),
        _THIN_RULE,
        *_scanned_lines(report, "Total Scanned", "Computed"),
    ]


def _attribution_lines(report: BackfillReport) -> list[str]:
    return [*_scope_lines(report), *_scanned_lines(report, "Tunes Scanned", "Attributed")]


def _trials_lines(report: BackfillReport) -> list[str]:
    return [*_scope_lines(report), *_scanned_lines(report, "Total Scanned", "Ingested")]


def _scanned_lines(report: BackfillReport, scanned: str, done: str) -> list[str]:
    return [
        _labelled(scanned, report.scanned),
        _labelled(done, report.eligible),
        _labelled("Skipped", report.scanned - report.eligible),
        *_reason_lines(report.skipped, "  - "),
        _updated(report),
    ]


def _extra_lines(report: BackfillReport) -> list[str]:
    facts = {"Changed Meanwhile": report.changed_meanwhile, "Conflicts": report.conflicts}
    facts |= {name.replace("_", " ").capitalize(): count for name, count in report.notices.items()}
    lines = [f"{name}: {count}" for name, count in facts.items() if count]
    lines += map(printable, report.notes)
    if report.interrupted:
        lines.append(f"Interrupted by {report.interrupted}; run the same command again to go on.")
    elif report.limit_reached:
        # a dry run begins where it began the last time
        go_on = "more rows wait; --limit may be higher" if report.dry_run else "run it again to go on"
        lines.append(f"Limit reached: {go_on}.")
    return lines
