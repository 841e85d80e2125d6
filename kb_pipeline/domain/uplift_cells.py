"""Uplift summed up: a median, how sure it is and what stands beside it, for each regime and strategy.

The interval is of the median over the symbols at hand; what one may conclude of it is written where
it is shown.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from kb_pipeline.domain.cluster_bootstrap import median_interval
from kb_pipeline.domain.uplift import REASONS, Uplifts
from kb_pipeline.rules import FEW_SYMBOLS, MIN_INTERVAL_TUNES, UPLIFT_TIERS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class UpliftScope(StrEnum):
    """What the tunes of a cell have in common, beside the length of their bars and their objective."""

    STRATEGY = "strategy"
    REGIME = "regime"
    STRATEGY_REGIME = "strategy_regime"


@dataclass(frozen=True, slots=True, kw_only=True)
class MedianInterval:
    """A median of `n` values and the 95 % interval of it; None where there are too few values."""

    n: int
    median: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellName:
    """Which tunes a cell is of. Strategy or regime is None where it is of all of them, a tag where the
    regime has none, the length of the bars where the runs do not name it.
    """

    scope: UpliftScope
    strategy_id: str | None
    strategy_name: str | None
    regime_key: str | None
    trend_tag: str | None
    vol_tag: str | None
    efficiency_tag: str | None
    timeframe: str | None
    objective: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftCell(CellName):
    """The uplift of the tunes of one cell, in units of the score; None where unknown.

    Attributes:
        tunes: Tunes of the cell; `uplift.n` of them plus those in `unknown`.
        uplift: Regime-selected minus baseline score.
        over_blind: Regime-selected score minus that of the set best whatever the regime: the part of
            the uplift that knowing the regime gives, where the baseline is a declared default.
        share_positive: Share of the known uplifts above zero, 0 to 1.
        same: Tunes for which the regime suggests the baseline itself, whose uplift is zero.
        by_default: Tunes whose baseline is the strategy's declared default.
        thin: Whether fewer tunes than an interval needs have a known uplift.
        symbols: Distinct symbols among the tunes with a known uplift; those that name none count as one.
        clustered_by: What was drawn for the interval: `symbol`, or `tune` where there is one symbol.
        few_symbols: Whether there are too few symbols for the interval to hold what it promises.
        gap_n: Tunes whose score in sample is known too.
        gap: Median of the score in sample minus out of sample with the regime-selected parameters.
        tiers: How many tunes each tier chose for.
        unknown: How many tunes have no uplift, by reason.
    """

    tunes: int
    uplift: MedianInterval
    over_blind: MedianInterval
    share_positive: float | None
    same: int
    by_default: int
    thin: bool
    symbols: int
    clustered_by: str
    few_symbols: bool
    gap_n: int
    gap: float | None
    tiers: dict[str, int]
    unknown: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftReport:
    """The uplift of a workspace.

    Attributes:
        computed_at: None where the answer was not kept, as after a dry run.
        scanned: Completed tunes read: those with a known uplift and those without.
        known: Tunes with a known uplift.
        unknown: The others, by reason.
        cells: By scope, those of most known uplifts first.
    """

    computed_at: datetime | None
    scanned: int
    known: int
    unknown: dict[str, int]
    cells: tuple[UpliftCell, ...]

    def of_scope(self, scope: UpliftScope, strategy_id: str | None = None) -> list[UpliftCell]:
        """Return the cells of one scope, of one strategy where it is named."""
        return [
            cell for cell in self.cells if cell.scope == scope and strategy_id in (None, cell.strategy_id)
        ]

    def to_dict(self, strategy_id: str | None = None) -> dict[str, Any]:
        """Return the same for machines, the cells of one strategy alone where it is named."""
        cells = [cell for scope in UpliftScope for cell in self.of_scope(scope, strategy_id)]
        computed_at = self.computed_at.isoformat() if self.computed_at else None
        return asdict(self) | {"computed_at": computed_at, "cells": [asdict(cell) for cell in cells]}


def sum_up(name: CellName, uplifts: Uplifts, rows: Integers, symbols: Integers) -> UpliftCell:
    """Return the cell of some tunes.

    Args:
        name: What they have in common.
        uplifts: Of all tunes.
        rows: Positions of the tunes of the cell, at least one.
        symbols: Number of the symbol of each of all tunes, -1 where it names none.
    """
    known = rows[uplifts.reasons[rows] < 0]
    distinct = len(np.unique(symbols[known]))
    values, gaps = uplifts.uplifts[known], uplifts.gaps[known]
    gaps = gaps[~np.isnan(gaps)]
    uplift = _median(values, symbols[known])
    by_default = int(uplifts.by_default[known].sum())
    blind = known[~np.isnan(uplifts.over_blind[known])]
    return UpliftCell(
        **{it.name: getattr(name, it.name) for it in fields(CellName)},
        tunes=len(rows),
        uplift=uplift,
        over_blind=_median(uplifts.over_blind[blind], symbols[blind]) if by_default else uplift,
        share_positive=float(np.mean(values > 0)) if len(values) else None,
        same=int(uplifts.same[known].sum()),
        by_default=by_default,
        thin=len(known) < MIN_INTERVAL_TUNES,
        symbols=distinct,
        clustered_by="symbol" if distinct > 1 else "tune",
        few_symbols=distinct < FEW_SYMBOLS,
        gap_n=len(gaps),
        gap=float(np.median(gaps)) if len(gaps) else None,
        tiers=counts_by_name(uplifts.tiers[rows], UPLIFT_TIERS),
        unknown=counts_by_name(uplifts.reasons[rows], REASONS),
    )


def counts_by_name(places: Integers, names: Sequence[str]) -> dict[str, int]:
    """Return how often each name's place occurs, for those that do, in the order of the names."""
    counts = np.bincount(places[places >= 0], minlength=len(names)).tolist()
    return {str(name): count for name, count in zip(names, counts, strict=True) if count}


def _median(values: Floats, symbols: Integers) -> MedianInterval:
    if not len(values):
        return MedianInterval(n=0, median=None, low=None, high=None)
    low = high = None
    if len(values) >= MIN_INTERVAL_TUNES:
        one_symbol = bool(np.all(symbols == symbols[0]))
        low, high = median_interval(values, np.arange(len(values)) if one_symbol else symbols)
    return MedianInterval(n=len(values), median=float(np.median(values)), low=low, high=high)
