"""What a measurement of uplift says, in words: a table a scope, and what its numbers mean and do not mean."""

from collections.abc import Sequence
from typing import Final

from kb_pipeline.domain.uplift_cells import MedianInterval, UpliftCell, UpliftReport, UpliftScope
from kb_pipeline.questions.words import table
from kb_pipeline.rules import FEW_SYMBOLS, INTERVAL_LEVEL, MIN_INTERVAL_TUNES, REGIME_KEY_SEPARATOR

_UNKNOWN: Final = "unknown"
_ALL: Final = "all"
_TITLES: Final = {
    UpliftScope.STRATEGY: "Every strategy, over all its regimes",
    UpliftScope.REGIME: "Every regime, over all strategies",
    UpliftScope.STRATEGY_REGIME: "Every strategy in every regime",
}

MEANING: Final = f"""\
uplift      Sharpe ratio out of sample with the parameters that did best in the other tunes of the same
            regime, minus that with the baseline: the strategy's declared defaults, else the parameters that
            did best in its other tunes whatever the regime. The median over the n tunes that tried both.
interval    Meant to hold the true median 95 times in 100; where it holds 0, nothing is shown. None
            below {MIN_INTERVAL_TUNES} tunes (thin). It draws whole symbols, and is too narrow where they
            are fewer than {FEW_SYMBOLS} (few symbols): in tests it held the truth 5 times in 10 with 2
            symbols, 8 with 4, 9 with 10. With one symbol it draws tunes, and speaks of that symbol alone.
over blind  The same against the parameters that did best whatever the regime, even where defaults are
            declared: what the regime adds. The rest of an uplift over defaults, any choice by scores gives.
IS - OOS    Median Sharpe ratio in sample minus out of sample, of the parameters chosen by regime."""
"""What the columns of the tables mean, for whoever reads them."""


def uplift_text(report: UpliftReport, strategy_id: str | None = None) -> str:
    """Return a report for people, of one strategy where it is named."""
    scopes = [scope for scope in UpliftScope if strategy_id is None or scope != UpliftScope.REGIME]
    tables = [scope_text(report.of_scope(scope, strategy_id), _TITLES[scope]) for scope in scopes]
    return "\n\n".join([counts_text(report), *tables, MEANING])


def counts_text(report: UpliftReport) -> str:
    """Return what became of every tune, in a line."""
    why = ", ".join(f"{reason} {count}" for reason, count in report.unknown.items())
    without = f", {report.scanned - report.known} without: {why}" if why else ""
    return f"{report.scanned} completed tunes in the workspace, {report.known} with a known uplift{without}."


def scope_text(cells: Sequence[UpliftCell], title: str) -> str:
    """Return the table of some cells, and how many of their intervals leave zero out."""
    if not cells:
        return f"{title}: no tunes."
    rows = [cell_words(cell) for cell in cells]
    shown = [name for name in rows[0] if {row[name] for row in rows} != {_ALL}]
    return "\n".join(
        [
            f"{title}:",
            table(shown, [[row[name] for name in shown] for row in rows]),
            *_by_chance([cell.uplift for cell in cells]),
        ]
    )


def cell_words(cell: UpliftCell) -> dict[str, str]:
    """Return a cell in words, by the heading of each column."""
    regime = (cell.regime_key or "").split(REGIME_KEY_SEPARATOR)
    return {
        "strategy": cell.strategy_name or cell.strategy_id or _ALL,
        "regime": " ".join(regime[2:]) or _ALL,
        "bars, objective": f"{cell.timeframe or '?'} {cell.objective or '?'}",
        "n": f"{cell.uplift.n} of {cell.tunes}",
        "uplift": _number(cell.uplift.median),
        "95 % interval": _interval(cell.uplift),
        "above 0": _UNKNOWN if cell.share_positive is None else f"{cell.share_positive:.0%}",
        "over blind": _number(cell.over_blind.median),
        "symbols": str(cell.symbols),
        "IS - OOS": _number(cell.gap),
        "note": note(cell),
    }


def note(cell: UpliftCell) -> str:
    """Return what keeps a cell from being relied on, in a few words; empty where nothing does."""
    same = [f"{cell.same} chose the baseline"] if cell.same else []
    if cell.thin:
        return ", ".join(["thin", *same])
    few = ["one symbol" if cell.symbols == 1 else "few symbols"] if cell.few_symbols else []
    return ", ".join([*few, *same])


def _by_chance(uplifts: Sequence[MedianInterval]) -> list[str]:
    """Say how many intervals would leave zero out if no regime mattered: of many, some do."""
    lows = [it.low for it in uplifts if it.low is not None]
    highs = [it.high for it in uplifts if it.high is not None]
    if not lows:
        return []
    above, below = sum(low > 0 for low in lows), sum(high < 0 for high in highs)
    chance = len(lows) * (1 - INTERVAL_LEVEL) / 2
    return [
        f"Intervals: {len(lows)}, of which {above} above 0 and {below} below. If nothing mattered, "
        f"{chance:.2g} should be on either side by chance; in tests there were up to three times as many, "
        "and more where symbols are few."
    ]


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:+.2f}"


def _interval(it: MedianInterval) -> str:
    return "none" if it.low is None or it.high is None else f"{_end(it.low)} to {_end(it.high)}"


def _end(value: float) -> str:
    """Return an end of an interval with as many digits as show on which side of 0 it lies."""
    digits = next((digits for digits in (2, 3, 4, 5) if value == 0 or round(value, digits)), 6)
    return f"{value:+.{digits}f}"
