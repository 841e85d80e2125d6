"""The tables of the dashboard: what is in the frame, in words and numbers, cell by cell.

A table is cut to so many rows and says how many are left out and where they are.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

from markupsafe import Markup

from kb_pipeline.dashboard.cells import (
    UNKNOWN,
    Cell,
    Column,
    Table,
    clipped,
    number,
    regime_label,
    signed,
    text,
    without_the_obvious,
)
from kb_pipeline.dashboard.charts import Dot, dot_row, dots_axis, dots_scale
from kb_pipeline.dashboard.frame import CoverageGap, Frame
from kb_pipeline.domain.uplift_cells import MedianInterval, UpliftCell
from kb_pipeline.questions.uplift import note
from kb_pipeline.rules import TIERS
from kb_pipeline.storage.dashboard import SampleGap, SamplePair, Sighting, TuneGroup
from kb_pipeline.storage.drift_events import DriftEvent

TIER_NAMES: Final = (*TIERS, "none")
"""Tiers in the order walked; `none` is a recommendation that found nothing."""

_LONGEST_PARAMS: Final = 120


def regime_anchor(regime_key: str) -> str:
    """Return the place of a regime among the best parameters."""
    return f"regime-{sha256(regime_key.encode()).hexdigest()[:12]}"


def _linked_regime(regime_key: str, linked: frozenset[str]) -> Cell:
    """Return a regime, as a link where it is among the best parameters shown."""
    href = regime_anchor(regime_key) if regime_key in linked else ""
    return Cell(text=regime_label(regime_key), href=href)


# --- Uplift --------------------------------------------------------------------------------------


def uplift_table(name: str, cells: Sequence[UpliftCell], linked: frozenset[str], rows: int) -> Table:
    """Return dots with intervals and their numbers, of regimes or of strategies.

    `linked` are the regime keys among the best parameters shown.
    """
    shown = cells[:rows]
    dots = [Dot(it.uplift.median, it.uplift.low, it.uplift.high, it.thin, it.few_symbols) for it in shown]
    scale = dots_scale(dots)
    is_regime = any(it.regime_key for it in cells)
    columns = (
        Column("Regime" if is_regime else "Strategy"),
        Column("Uplift and 95 % interval", "chart", dots_axis(scale)),
        Column("Uplift", "number"),
        Column("95 % interval", "number"),
        Column("n of tunes", "number"),
        Column("Above 0", "number"),
        Column("Over blind", "number"),
        Column("IS \N{MINUS SIGN} OOS", "number"),
        Column("Bars"),
        Column("Objective"),
        Column("Symbols", "number"),
        Column("Note", "note"),
    )
    table = Table(
        name=name,
        caption=f"Uplift by {'regime, over all strategies' if is_regime else 'strategy, over all regimes'}",
        columns=columns,
        rows=tuple(
            _uplift_row(cell, dot_row(dot, scale), linked) for cell, dot in zip(shown, dots, strict=True)
        ),
        left_out=len(cells) - len(shown),
        elsewhere="kb-pipeline uplift",
    )
    return without_the_obvious(table, "Objective")


def _uplift_row(cell: UpliftCell, picture: Markup, linked: frozenset[str]) -> tuple[Cell, ...]:
    key = cell.regime_key
    named = _linked_regime(key, linked) if key else text(cell.strategy_name or cell.strategy_id)
    return (
        named,
        Cell(picture=picture),
        number(cell.uplift.median),
        Cell(text=_interval(cell.uplift)),
        Cell(text=f"{cell.uplift.n} of {cell.tunes}"),
        number(cell.share_positive, ".0%"),
        number(cell.over_blind.median),
        number(cell.gap),
        text(cell.timeframe),
        text(cell.objective),
        number(cell.symbols, "d"),
        Cell(text=note(cell)),
    )


def _interval(it: MedianInterval) -> str:
    return "none" if it.low is None or it.high is None else f"{signed(it.low)} to {signed(it.high)}"


# --- Best parameters, gaps -----------------------------------------------------------------------


def best_table(groups: Sequence[TuneGroup], rows: int) -> Table:
    """Return the best parameters of each regime and strategy, with the ids of tune and run."""
    columns = (
        Column("Regime"),
        Column("Strategy"),
        Column("Bars"),
        Column("Objective"),
        Column("n", "number"),
        Column("Best score", "number"),
        Column("Mean score", "number"),
        Column("Best parameters", "code"),
        Column("Tune, and run of its best trial", "ids"),
    )
    seen: set[str] = set()
    table = Table(
        name="best",
        caption="Best parameters by regime and strategy",
        columns=columns,
        rows=tuple(_best_row(group, seen) for group in groups[:rows]),
        left_out=max(0, len(groups) - rows),
        elsewhere="kb-pipeline regimes",
    )
    return without_the_obvious(table, "Objective")


def _best_row(group: TuneGroup, seen: set[str]) -> tuple[Cell, ...]:
    anchor = "" if group.regime_key in seen else regime_anchor(group.regime_key)
    seen.add(group.regime_key)
    tune, run = group.best_tune_id, group.best_run_id
    return (
        Cell(text=regime_label(group.regime_key), anchor=anchor),
        text(group.strategy),
        text(group.timeframe),
        text(group.objective),
        number(group.scored, "d"),
        number(group.best_score),
        number(group.mean_score),
        Cell(text=clipped(group.best_params or UNKNOWN, _LONGEST_PARAMS), is_code=True),
        Cell(text="\n".join(filter(None, (tune, run))) or UNKNOWN, anchor=tune_anchor(tune), is_code=True),
    )


def tune_anchor(tune_id: str | None) -> str:
    """Return the place of a tune among the best parameters."""
    return f"tune-{tune_id}" if tune_id else ""


def gap_table(gaps: Sequence[CoverageGap], linked: frozenset[str], rows: int) -> Table:
    """Return the regimes with too few tunes, and which tunes to run next; `linked` as for uplift."""
    columns = (
        Column("Regime"),
        Column("Strategy"),
        Column("Bars"),
        Column("Objective"),
        Column("n", "number"),
        Column("Missing", "number"),
        Column("Asked for", "number"),
        Column("Run next: a tune whose out-of-sample part is", "words"),
    )
    table = Table(
        name="gaps",
        caption="Regimes with too few scored tunes of a strategy",
        columns=columns,
        rows=tuple(_gap_row(gap, linked) for gap in gaps[:rows]),
        left_out=max(0, len(gaps) - rows),
        elsewhere="kb-pipeline regimes",
    )
    return without_the_obvious(table, "Objective")


def _gap_row(gap: CoverageGap, linked: frozenset[str]) -> tuple[Cell, ...]:
    return (
        _linked_regime(gap.regime_key, linked),
        text(gap.strategy),
        text(gap.scoring.timeframe),
        text(gap.scoring.objective),
        number(gap.scored, "d"),
        number(gap.missing, "d"),
        number(gap.asked, "d"),
        Cell(
            text=", or ".join(map(_window, gap.untried)) or "every known window is tuned: add price history"
        ),
    )


def _window(sighting: Sighting) -> str:
    return f"{clipped(sighting.symbol, 16)} {sighting.start} to {sighting.end}"


# --- Drift ---------------------------------------------------------------------------------------


def drift_table(events: Sequence[DriftEvent], rows: int) -> Table:
    """Return the times at which a market left its training regimes, newest first."""
    return Table(
        name="drift",
        caption="Departures from the training regimes",
        columns=(
            *map(Column, ("Strategy", "Symbol", "Bars")),
            *(Column(name, "date") for name in ("From", "Until")),
            Column("Regime then, and what moved most", "words"),
        ),
        rows=tuple(
            (
                text(it.strategy_name),
                text(it.symbol),
                text(it.timeframe),
                Cell(text=f"{it.first_bar:%Y-%m-%d}"),
                Cell(text=f"{it.last_bar:%Y-%m-%d}" if it.last_bar else "lasts"),
                Cell(text="; ".join(filter(None, (regime_label(it.regime_key), _moved(it))))),
            )
            for it in events
        ),
        elsewhere="kb-pipeline drift",
    ).cut(rows)


def _moved(event: DriftEvent) -> str:
    return ", ".join(f"{it.feature} {it.then:.3g} to {it.now:.3g}" for it in event.moved)


# --- Recommendations, in sample against out of sample --------------------------------------------


def tier_table(frame: Frame) -> Table:
    """Return the recommendations of each week by the tier that answered, newest first."""
    tiers = [tier for tier in TIER_NAMES if any(week.calls.get(tier) for week in frame.weeks)]
    others = sorted({tier for week in frame.weeks for tier in week.calls} - set(TIER_NAMES))
    columns = [Column(name, "number") for name in ("n", *tiers, *(clipped(it, 24) for it in others))]
    rows = [
        (
            Cell(text=week.monday.isoformat()),
            number(sum(week.calls.values()), "d"),
            *(number(week.calls.get(tier, 0), "d") for tier in (*tiers, *others)),
        )
        for week in reversed(frame.weeks)
    ]
    return Table(
        name="tiers",
        caption="Recommendations a week by the tier that answered",
        columns=(Column("Week of"), *columns),
        rows=tuple(rows),
    )


def sample_gap_table(gaps: Sequence[SampleGap], rows: int) -> Table:
    """Return in-sample against out-of-sample scores by strategy, as medians."""
    columns = ("n", "In sample", "Out of sample", "Median lost", "Share that lost")
    return Table(
        name="samples",
        caption="Medians over the tunes: Sharpe ratios of the trial that was best in sample",
        columns=(Column("Strategy"), Column("Bars"), *(Column(name, "number") for name in columns)),
        rows=tuple(
            (
                text(it.strategy),
                text(it.timeframe),
                number(it.tunes, "d"),
                number(it.median_in_sample),
                number(it.median_out_of_sample),
                number(it.median_gap),
                number(it.share_lower, ".0%"),
            )
            for it in gaps
        ),
        elsewhere="kb_trials",
    ).cut(rows)


def sample_pair_table(pairs: Sequence[SamplePair], linked: frozenset[str], rows: int) -> Table:
    """Return the points of the picture, one tune a row."""
    find: Callable[[str], str] = lambda tune_id: tune_anchor(tune_id) if tune_id in linked else ""  # noqa: E731
    columns = ("In sample", "Out of sample", "Lost")
    return Table(
        name="pairs",
        caption="Each tune's trial that was best in sample",
        columns=(
            *map(Column, ("Strategy", "Symbol", "Bars")),
            *(Column(name, "number") for name in columns),
            Column("Tune", "ids"),
        ),
        rows=tuple(
            (
                text(it.strategy),
                text(it.symbol),
                text(it.timeframe),
                number(it.in_sample),
                number(it.out_of_sample),
                number(it.in_sample - it.out_of_sample),
                Cell(text=it.tune_id, href=find(it.tune_id), is_code=True),
            )
            for it in pairs
        ),
        elsewhere="kb_trials",
    ).cut(rows)
