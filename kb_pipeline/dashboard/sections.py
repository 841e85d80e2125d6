"""The sections of the dashboard: words, pictures and tables in the order in which they are read.

A section without data says what is missing and which command makes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from kb_pipeline.dashboard.cells import NO_TAG, Table, clipped, signed
from kb_pipeline.dashboard.charts import Point, Span, scatter, stacked_bars, swatch, timeline
from kb_pipeline.dashboard.frame import Frame
from kb_pipeline.dashboard.heat_map import HeatMap, heat_map, market_table
from kb_pipeline.dashboard.tables import (
    TIER_NAMES,
    best_table,
    drift_table,
    gap_table,
    sample_gap_table,
    sample_pair_table,
    tier_table,
    uplift_table,
)
from kb_pipeline.domain.uplift_cells import UpliftScope
from kb_pipeline.rules import FEW_SYMBOLS, INTERVAL_LEVEL, MIN_INTERVAL_TUNES, MIN_SAMPLES
from kb_pipeline.storage.drift_events import DriftEvent

_SHOWN_GRIDS, _DRAWN_LANES = 3, 12
_TIER_CLASSES: Final = {tier: f"t{place}" for place, tier in enumerate(TIER_NAMES)}


@dataclass(frozen=True, slots=True)
class Missing:
    """What a section lacks, and the command that makes it, empty where none can."""

    words: str
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what stands under it. With a picture or grids, the first table stands beside them."""

    name: str
    title: str
    words: tuple[str, ...] = ()
    missing: Missing | None = None
    grids: tuple[HeatMap, ...] = ()
    picture: Markup | None = None
    legend: tuple[tuple[Markup, str], ...] = ()
    caption: str = ""
    tables: tuple[Table, ...] = ()
    class_: str = ""


def all_sections(frame: Frame, rows: int) -> list[Section]:
    """Return the sections, tables cut to so many rows; without regimes only those that need none."""
    shown = frame.groups[:rows]
    regimes = frozenset(group.regime_key for group in shown)
    tunes = frozenset(group.best_tune_id for group in shown if group.best_tune_id)
    of_groups = [market_section(frame, rows), best_section(frame, rows), gap_section(frame, regimes, rows)]
    return [
        uplift_section(frame, regimes, rows),
        *(of_groups if frame.groups else []),
        tier_section(frame),
        drift_section(frame, rows),
        sample_section(frame, tunes, rows),
    ]


def _command(frame: Frame, name: str) -> str:
    return f"kb-pipeline {name} --workspace-id {frame.workspace_id}"


def _no_regimes(frame: Frame) -> Missing:
    """Return why no tune has a regime, and the next step."""
    if not frame.state.completed_tunes:
        return Missing(
            "This workspace has no completed tune. Tunes are made by the backtesting platform; "
            "a demo workspace with some is loaded by this command.",
            "kb-pipeline demo",
        )
    return Missing(
        f"None of the {frame.state.completed_tunes} completed tunes has a regime yet. Run:",
        _command(frame, "backfill-attribution"),
    )


# --- Uplift --------------------------------------------------------------------------------------


def uplift_section(frame: Frame, linked: frozenset[str], rows: int) -> Section:
    """Return uplift per regime and per strategy, as dots with intervals."""
    words: tuple[str, ...] = (
        "Uplift is what a tune scored out of sample with the parameters that did best in the other tunes of "
        "the same regime, minus what it scored with the baseline: the strategy's declared defaults, else "
        "the parameters that did best in its other tunes whatever the regime. The dot is the median over "
        f"the n tunes that tried both, the line its {INTERVAL_LEVEL:.0%} interval. A hollow dot is thin: "
        f"fewer than {MIN_INTERVAL_TUNES} tunes and no interval. Blue lies above zero, orange below, grey "
        "holds zero.",
        f"Intervals draw whole symbols; with fewer than {FEW_SYMBOLS} they are too narrow and dotted. Over "
        "blind is the uplift over the parameters best whatever the regime, even where defaults are "
        "declared. IS \N{MINUS SIGN} OOS is the score in sample minus out of sample of the parameters "
        "chosen by regime.",
    )
    missing, tables = None, []
    if frame.uplift is None or not frame.uplift.cells:
        missing = (
            Missing("Uplift was not measured yet. Run:", _command(frame, "uplift"))
            if frame.groups
            else _no_regimes(frame)
        )
        words = ()
    else:
        for scope in (UpliftScope.REGIME, UpliftScope.STRATEGY):
            cells = frame.uplift.of_scope(scope)
            if cells:
                tables.append(uplift_table(f"uplift-{scope}", cells, linked, rows))
    return Section(
        name="uplift",
        title="Uplift by regime and by strategy",
        words=words,
        missing=missing,
        tables=tuple(tables),
        class_="dotted",
    )


def conclusion(frame: Frame) -> str:
    """Return what the intervals of the regimes say together, in a sentence or two."""
    cells = frame.uplift.of_scope(UpliftScope.REGIME) if frame.uplift else []
    intervals = [(it.uplift.low, it.uplift.high) for it in cells]
    lows = [low for low, _ in intervals if low is not None]
    highs = [high for _, high in intervals if high is not None]
    if not lows:
        return (
            "Not known yet: no regime has enough tunes for an interval."
            if cells
            else "Not known yet: uplift was not measured."
        )
    above, below = sum(low > 0 for low in lows), sum(high < 0 for high in highs)
    chance = len(lows) * (1 - INTERVAL_LEVEL) / 2
    return (
        f"Of {len(lows)} regimes with an interval, {above} {'lies' if above == 1 else 'lie'} above zero and "
        f"{below} below; if no regime mattered, about {chance:.2g} would on either side by chance, "
        "more where symbols are few."
    )


# --- Markets -------------------------------------------------------------------------------------


def market_section(frame: Frame, rows: int) -> Section:
    """Return the heat map of trend and volatility, one for scores that compare, and its numbers."""
    grids = frame.grids
    left_out = len(grids) - _SHOWN_GRIDS
    words = [
        "Mean score of the tunes' best trials, and n under it. A tune's best trial was chosen by this very "
        "score, which flatters it: compare the cells with each other, not with zero. A dashed frame marks "
        f"fewer than {MIN_SAMPLES} tunes; {NO_TAG} stands where no tag holds."
    ]
    if left_out > 0:
        words.append(f"{left_out} more combinations of bars and objective are in the table.")
    return Section(
        name="markets",
        title="Trend and volatility",
        words=tuple(words),
        grids=tuple(heat_map(scoring, grid) for scoring, grid in list(grids.items())[:_SHOWN_GRIDS]),
        tables=(market_table(grids, rows),),
    )


# --- Best parameters, gaps -----------------------------------------------------------------------


def best_section(frame: Frame, rows: int) -> Section:
    """Return the best parameters of each regime."""
    return Section(
        name="best",
        title="Best parameters by regime",
        words=(
            "The best score of n tunes is higher the more tunes there are, in every market; the mean stands "
            "beside it. Scores of different bars or objectives do not compare. "
            "Ask kb-pipeline recommend before using any of these.",
        ),
        tables=(best_table(frame.groups, rows),),
    )


def gap_section(frame: Frame, linked: frozenset[str], rows: int) -> Section:
    """Return the regimes with too few tunes, and which to run next."""
    title = "Coverage gaps"
    if not frame.gaps:
        return Section(
            name="gaps",
            title=title,
            words=(f"Every strategy has at least {MIN_SAMPLES} scored tunes in every regime met so far.",),
        )
    return Section(
        name="gaps",
        title=title,
        words=(
            f"These regimes have fewer than {MIN_SAMPLES} scored tunes of a strategy, too few to trust the "
            "best of them: run these tunes next. Those asked for most stand first, then those with a window "
            "on which the strategy was not tuned yet.",
        ),
        tables=(gap_table(frame.gaps, linked, rows),),
    )


# --- Recommendations -----------------------------------------------------------------------------


def tier_section(frame: Frame) -> Section:
    """Return which tier answered recommendations, week by week."""
    title = "What recommendations rested on"
    if not frame.weeks:
        command = _command(frame, "recommend") + " --strategy NAME --regime-key KEY"
        missing = Missing("Nobody has asked for a recommendation yet. Ask with:", command)
        return Section(name="tiers", title=title, missing=missing)
    used = [tier for tier in TIER_NAMES if any(week.calls.get(tier) for week in frame.weeks)]
    bars = [(f"{week.monday:%d %b}", week.calls) for week in frame.weeks]
    return Section(
        name="tiers",
        title=title,
        words=(
            "From tunes of exactly the regime asked about (exact) down to the best of any (global_best).",
        ),
        picture=stacked_bars("Recommendations a week by tier", bars, _TIER_CLASSES),
        legend=tuple((swatch(_TIER_CLASSES[tier]), tier) for tier in used),
        caption=f"Recommendations a week, the newest {len(bars)} weeks (UTC).",
        tables=(tier_table(frame),),
    )


# --- Drift ---------------------------------------------------------------------------------------


def drift_section(frame: Frame, rows: int) -> Section:
    """Return when markets left the regimes that parameters were chosen in."""
    title = "Drift"
    if not frame.drift:
        missing = Missing(
            "No departure of a market from the regimes parameters were chosen in is on record. To look:",
            _command(frame, "drift"),
        )
        return Section(name="drift", title=title, missing=missing)
    lasting = sum(event.last_bar is None for event in frame.drift)
    return Section(
        name="drift",
        title=title,
        words=(
            "Departures of a market from the regimes that a strategy's parameters were chosen in: "
            f"{len(frame.drift)}, {lasting} of them lasting. Where one lasts, ask for a recommendation "
            "before trading on.",
        ),
        picture=timeline("Times at which markets left their training regimes", _lanes(frame.drift)),
        caption="A dot where drift was found, a line for as long as it lasted, by the times of the bars.",
        tables=(drift_table(frame.drift, rows),),
    )


def _lanes(events: Sequence[DriftEvent]) -> list[tuple[str, list[Span]]]:
    """Return the events of the series that drifted last, a lane for each."""
    lanes: dict[tuple[str, str, str], tuple[str, list[Span]]] = {}
    for it in events:
        series = (it.strategy_id, it.symbol, it.timeframe)
        if series in lanes or len(lanes) < _DRAWN_LANES:
            name = " ".join(map(clipped, (it.strategy_name, it.symbol, it.timeframe), (12, 8, 4)))
            span = Span(it.first_bar, it.last_bar, f"{name} from {it.first_bar:%Y-%m-%d}")
            lanes.setdefault(series, (name, []))[1].append(span)
    return list(lanes.values())


# --- In sample against out of sample -------------------------------------------------------------


def sample_section(frame: Frame, linked: frozenset[str], rows: int) -> Section:
    """Return what the trials that were best in sample did out of sample."""
    title = "In sample against out of sample"
    if not frame.sample_pairs:
        missing = (
            Missing("No ingested trial has a Sharpe ratio both in sample and out of sample.")
            if frame.state.has_trials
            else Missing("No trial was ingested yet. Run:", _command(frame, "ingest-trials"))
        )
        return Section(name="samples", title=title, missing=missing)
    shown = frame.sample_pairs[: 2 * rows]
    points = [
        Point(
            it.in_sample,
            it.out_of_sample,
            clipped(f"{it.strategy} {it.symbol or ''} {it.timeframe}", 60)
            + f": {signed(it.in_sample)} in sample, {signed(it.out_of_sample)} out of sample",
        )
        for it in shown
    ]
    return Section(
        name="samples",
        title=title,
        words=(
            "Of each tune the trial that was best in sample, and what it scored out of sample. On the dashed "
            "line nothing was lost; what lies under it was at least partly luck.",
        ),
        picture=scatter("Sharpe ratios in sample and out of sample", points, "in sample", "out of sample"),
        caption=f"One dot a tune, the newest {len(points)} tunes that have both.",
        tables=(
            sample_gap_table(frame.sample_gaps, rows),
            sample_pair_table(shown, linked, 2 * rows),
        ),
    )


@dataclass(frozen=True, slots=True)
class Fact:
    """One of the figures at the top."""

    name: str
    value: str
    of: str = ""


def facts(frame: Frame) -> Sequence[Fact]:
    """Return the figures at the top."""
    regimes = {group.regime_key for group in frame.groups}
    covered = {
        (group.strategy_id, group.timeframe, group.objective, group.regime_key)
        for group in frame.groups
        if group.scored >= MIN_SAMPLES
    }
    known = str(frame.uplift.known) if frame.uplift else "unknown"
    return (
        Fact("Completed tunes", str(frame.state.completed_tunes)),
        Fact("with a regime", str(frame.state.attributed_tunes), f"of {frame.state.completed_tunes}"),
        Fact("with a known uplift", known, f"of {frame.uplift.scanned}" if frame.uplift else ""),
        Fact("Regimes met by tunes", str(len(regimes))),
        Fact(
            "Strategy and regime pairs covered",
            str(len(covered)),
            f"of {len(covered) + len(frame.gaps)}",
        ),
        Fact("Drift events", str(len(frame.drift)), _lasting(frame)),
        Fact("Recommendations", str(sum(sum(week.calls.values()) for week in frame.weeks))),
    )


def _lasting(frame: Frame) -> str:
    lasting = sum(event.last_bar is None for event in frame.drift)
    return f"{lasting} lasting" if lasting else ""
