"""The heat map of trend and volatility: cells coloured by their mean score, and a table of their numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kb_pipeline.dashboard.cells import (
    NO_TAG,
    Cell,
    Column,
    Table,
    clipped,
    number,
    signed,
    text,
    without_the_obvious,
)
from kb_pipeline.dashboard.frame import Grid, GridCell, Scoring
from kb_pipeline.rules import MIN_SAMPLES, TREND_TAGS_BY_PRIORITY, VOLATILITY_TAGS_BY_PRIORITY

_TRENDS: Final = (*TREND_TAGS_BY_PRIORITY, None)
_VOLATILITIES: Final = (*reversed(VOLATILITY_TAGS_BY_PRIORITY), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatCell:
    """A cell of the heat map: score and count as text, colour as a class."""

    score: str
    n: str
    class_: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """A grid of markets: trends down, volatilities across."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


def heat_map(scoring: Scoring, grid: Grid) -> HeatMap:
    """Return the grid of markets of scores that compare; blue is above zero, orange below, by three steps."""
    most = max((abs(it.mean_score) for it in grid.values() if it.mean_score is not None), default=0.0)
    empty = GridCell(0, 0, None)
    return HeatMap(
        caption=f"{clipped(scoring.timeframe, 16)} bars, {clipped(scoring.objective, 24)}",
        columns=tuple(it or NO_TAG for it in _VOLATILITIES),
        rows=tuple(
            (
                trend or NO_TAG,
                tuple(_heat_cell(grid.get((trend, it), empty), most) for it in _VOLATILITIES),
            )
            for trend in _TRENDS
        ),
    )


def _heat_cell(cell: GridCell, most: float) -> HeatCell:
    n = f"n = {cell.scored}" if cell.scored == cell.tunes else f"n = {cell.scored} of {cell.tunes}"
    if cell.mean_score is None:
        return HeatCell(score="", n=n if cell.tunes else "no tune", class_="empty")
    strength = min(3, int(3 * abs(cell.mean_score) / most + 0.5)) if most else 0
    colour = "z" if not strength else f"{'p' if cell.mean_score > 0 else 'n'}{strength}"
    thin = " is-thin" if cell.scored < MIN_SAMPLES else ""
    return HeatCell(score=signed(cell.mean_score), n=n, class_=colour + thin)


def market_table(grids: Mapping[Scoring, Grid], rows: int) -> Table:
    """Return the numbers of the heat maps, and of those that are not drawn, in the order of the cells."""
    table = Table(
        name="markets",
        caption="Trend and volatility in numbers",
        columns=(
            *map(Column, ("Trend", "Volatility", "Bars", "Objective")),
            *(Column(name, "number") for name in ("Tunes", "With a score", "Mean score")),
        ),
        rows=tuple(
            (
                Cell(text=trend or NO_TAG),
                Cell(text=volatility or NO_TAG),
                text(scoring.timeframe),
                text(scoring.objective),
                number(cell.tunes, "d"),
                number(cell.scored, "d"),
                number(cell.mean_score),
            )
            for scoring, grid in grids.items()
            for trend in _TRENDS
            for volatility in _VOLATILITIES
            if (cell := grid.get((trend, volatility)))
        ),
        elsewhere="kb-pipeline regimes",
    ).cut(rows)
    return without_the_obvious(table, "Objective")
