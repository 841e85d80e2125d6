"""Pictures for the asset pages: PNG inside markdown, so that they travel with the event log.

Only drawing. What is drawn comes as frames and numbers; whether to draw is decided by who calls.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
import numpy as np
import pandas as pd

from kb_pipeline.domain.uplift_cells import UpliftCell
from kb_pipeline.plain_text import markdown_text, printable
from kb_pipeline.rules import FEW_SYMBOLS, MIN_INTERVAL_TUNES, REGIME_KEY_ABSENT, TREND_TAGS_BY_PRIORITY
from kb_pipeline.storage.orchestration import RegimeWindow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOTTED_PARTITIONS: Final = 10
"""A run over more partitions draws nothing: 500 pictures would be 15 MB of event log."""

PLOTTED_CELLS: Final = 30
"""Regimes in a picture, those of most tunes; the table beside it has the rest."""

_TITLE_CHARACTERS: Final = 100
_LABEL_CHARACTERS: Final = 40
"""More of a name would leave no room for the picture."""

_DOTS_PER_INCH: Final = 80
_TREND_COLOURS: Final = dict(
    zip(TREND_TAGS_BY_PRIORITY, ("#2a9d57", "#c8443a", "#e0a030", "#7a8aa0"), strict=True)
)
_OTHER_COLOUR: Final = "#d8dde4"
_DOT_COLOUR: Final = "#4a7ba6"


def price_plot(
    title: str, bars: pd.DataFrame, windows: Sequence[RegimeWindow] = ()
) -> dg.MarkdownMetadataValue:
    """Draw closing prices, and the windows beneath them in the colours of their trends."""
    figure, axes = _figure(title)
    axes.plot(bars.index, bars["close"], linewidth=0.8, color="#1f3b57")
    trends = [
        next((trend for trend in _TREND_COLOURS if trend in window.tags), "other") for window in windows
    ]
    # One collection: a patch for each window takes twice as long.
    begins = _day_numbers([it.start for it in windows])
    ends = _day_numbers([it.end for it in windows])
    axes.broken_barh(
        list(zip(begins, ends - begins, strict=True)),
        (0, 1),
        transform=axes.get_xaxis_transform(),
        facecolors=[_TREND_COLOURS.get(trend, _OTHER_COLOUR) for trend in trends],
        alpha=0.35,
        lw=0,
    )
    for trend in sorted(set(trends)):
        axes.plot([], [], color=_TREND_COLOURS.get(trend, _OTHER_COLOUR), linewidth=6, alpha=0.5, label=trend)
    if windows:
        axes.legend(loc="upper left", fontsize=8, frameon=False)
    axes.set_ylabel("close")
    return _markdown(title, figure)


def _day_numbers(times: list[str]) -> np.ndarray[Any, Any]:
    """Return times as matplotlib counts them."""
    from matplotlib.dates import date2num

    numbers: np.ndarray[Any, Any] = date2num(pd.to_datetime(times, utc=True, format="ISO8601"))  # type: ignore[no-untyped-call]
    return numbers


def reason_plot(title: str, counts: Mapping[str, int]) -> dg.MarkdownMetadataValue:
    """Draw one bar per reason, the commonest on top."""
    figure, axes = _figure(title)
    reasons = sorted(counts, key=lambda reason: (counts[reason], reason))
    bars = axes.barh(reasons, [counts[reason] for reason in reasons], color="#4a7ba6")
    axes.bar_label(bars, padding=3, fontsize=8)
    axes.set_xlabel("rows")
    return _markdown(title, figure)


def uplift_plot(title: str, cells: Sequence[UpliftCell]) -> dg.MarkdownMetadataValue:
    """Draw a dot per cell at its median uplift, with the interval around it; hollow and bare where thin."""
    known = [(cell, cell.uplift.median) for cell in cells if cell.uplift.median is not None]
    known = known[:PLOTTED_CELLS][::-1]
    figure, axes = _figure(title, height_inches=1.5 + 0.28 * len(known))
    for place, (cell, median) in enumerate(known):
        low, high = cell.uplift.low, cell.uplift.high
        if low is not None and high is not None:
            axes.hlines(place, low, high, color=_DOT_COLOUR, linestyle=":" if cell.few_symbols else "-", lw=2)
        axes.plot([median], [place], "o", color=_DOT_COLOUR, mfc="white" if cell.thin else _DOT_COLOUR)
    axes.axvline(0, color="#1f3b57", linewidth=0.8)
    labels = [f"{_regime_label(cell)}  n={cell.uplift.n}" for cell, _ in known]
    axes.set_yticks(range(len(known)), labels, fontsize=8, parse_math=False)
    axes.set_xlabel(
        "regime-selected minus baseline Sharpe ratio, out of sample\n"
        f"hollow: fewer than {MIN_INTERVAL_TUNES} tunes; dotted: fewer than {FEW_SYMBOLS} symbols",
        fontsize=9,
    )
    return _markdown(title, figure)


def _regime_label(cell: UpliftCell) -> str:
    tags = (cell.trend_tag, cell.vol_tag, cell.efficiency_tag)
    label = " ".join([*(tag or REGIME_KEY_ABSENT for tag in tags), cell.timeframe or "?"])
    return printable(label[:_LABEL_CHARACTERS])


def _figure(title: str, height_inches: float = 3.2) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height_inches), layout="constrained")
    axes = figure.subplots()
    axes.set_title(printable(title[:_TITLE_CHARACTERS]), fontsize=10, loc="left", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _markdown(title: str, figure: "Figure") -> dg.MarkdownMetadataValue:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DOTS_PER_INCH)
    encoded = base64.b64encode(image.getvalue()).decode()
    return dg.MetadataValue.md(f"![{markdown_text(title)}](data:image/png;base64,{encoded})")
