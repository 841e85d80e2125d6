"""Pictures as SVG text: numbers in, one element out. Colours are classes; the style sheet knows both themes.

Only drawing: what is drawn, in which order and with which words is decided by who calls.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

ROW_HEIGHT: Final = 30
"""Of a row of dots in px; rows stand without gaps, so that the zero line is one line."""

_DOTS_WIDTH, _DOTS_MARGIN = 250, 12
_PLOT_WIDTH, _PLOT_HEIGHT = 420, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 44


def element(name: str, *children: str, **attributes: object) -> Markup:
    """Return one element; text and attribute values are escaped, `_` in attribute names becomes `-`."""
    shown = {key.rstrip("_").replace("_", "-"): _shown(value) for key, value in attributes.items()}
    opening = "".join(f' {key}="{escape(value)}"' for key, value in shown.items())
    content = Markup("").join(children)
    return Markup(f"<{name}{opening}>{content}</{name}>" if content else f"<{name}{opening}/>")  # noqa: S704


def _shown(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most so many round numbers between two, steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * it for it in (1, 2, 5, 10, 20) if span / (power * it) <= most - 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(at * step, 12) for at in range(first, last + 1)]


def tick_text(value: float) -> str:
    """Return a tick's number with a true minus sign, short."""
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers from `low` to `high` as px from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the place of a number in px."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round numbers on this scale."""
        return ticks(self.low, self.high)


def scale_over(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a scale on which all values and zero lie, with a little room at both ends."""
    low, high = min([0.0, *values]), max([0.0, *values])
    room = (high - low) * 0.04 or 1.0
    return Scale(low - room, high + room, start, end)


# --- Dots with intervals -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dot:
    """A median and its interval; None where unknown. `is_thin` marks one of too few values."""

    median: float | None
    low: float | None
    high: float | None
    is_thin: bool

    @property
    def verdict(self) -> str:
        """Where the interval lies: above zero, below it, around it, or thin where there is none."""
        if self.low is None or self.high is None:
            return "thin"
        return "above" if self.low > 0 else "below" if self.high < 0 else "around"


def dots_scale(dots: Sequence[Dot]) -> Scale:
    """Return the scale that rows of dots share."""
    values = [it for dot in dots for it in (dot.median, dot.low, dot.high) if it is not None]
    return scale_over(values, _DOTS_MARGIN, _DOTS_WIDTH - _DOTS_MARGIN)


def dots_axis(scale: Scale) -> Markup:
    """Return the axis that stands over the rows."""
    labels = [
        element("text", tick_text(it), x=scale.at(it), y=14, text_anchor="middle") for it in scale.ticks
    ]
    marks = [element("path", d=f"M{scale.at(it):.1f} 19v5", class_="tick") for it in scale.ticks]
    return _picture(*labels, *marks, width=_DOTS_WIDTH, height=24, class_="dots", aria_hidden="true")


def dot_row(dot: Dot, scale: Scale) -> Markup:
    """Return one row: zero line, interval, dot. Its numbers stand beside it, so it is hidden from readers."""
    middle = ROW_HEIGHT / 2
    parts = [element("path", d=f"M{scale.at(0):.1f} 0v{ROW_HEIGHT}", class_="zero")]
    if dot.median is None:
        parts.append(element("text", "unknown", x=scale.at(0) + 6, y=middle + 4, class_="unknown"))
    else:
        if dot.low is not None and dot.high is not None:
            line = f"M{scale.at(dot.low):.1f} {middle:g}H{scale.at(dot.high):.1f}"
            parts.append(element("path", d=line, class_="interval"))
        parts.append(element("circle", cx=scale.at(dot.median), cy=middle, r=4.5))
    kind = f"dots {dot.verdict}" + (" is-thin" if dot.is_thin else "")
    return _picture(*parts, width=_DOTS_WIDTH, height=ROW_HEIGHT, class_=kind, aria_hidden="true")


# --- Points, bars, moments -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Point:
    """A pair of numbers and what it is of."""

    x: float
    y: float
    name: str


def scatter(title: str, points: Sequence[Point], x_name: str, y_name: str) -> Markup:
    """Return points over a diagonal on which both numbers are equal; both axes have one scale."""
    values = [it for point in points for it in (point.x, point.y)]
    across = scale_over(values, _LEFT, _PLOT_WIDTH - _RIGHT)
    up = Scale(across.low, across.high, _PLOT_HEIGHT - _BOTTOM, _TOP)
    diagonal = f"M{across.start:g} {up.start:g}L{across.end:g} {up.end:g}"
    circles = [
        element("circle", element("title", it.name), cx=across.at(it.x), cy=up.at(it.y), r=4) for it in points
    ]
    return _picture(
        element("title", title),
        *_frame(across, up, x_name, y_name),
        element("path", d=diagonal, class_="diagonal"),
        *circles,
        width=_PLOT_WIDTH,
        height=_PLOT_HEIGHT,
        class_="scatter",
        role="img",
    )


def _frame(across: Scale, up: Scale, x_name: str, y_name: str) -> list[Markup]:
    bottom, left = up.start, across.start
    below = [
        element("text", tick_text(it), x=across.at(it), y=bottom + 18, text_anchor="middle")
        for it in across.ticks
    ]
    beside = [
        element("text", tick_text(it), x=left - 8, y=up.at(it) + 4, text_anchor="end") for it in up.ticks
    ]
    lines = [
        element("path", d=f"M{across.at(it):.1f} {bottom:g}V{up.end:g}", class_="grid") for it in across.ticks
    ]
    lines += [
        element("path", d=f"M{left:g} {up.at(it):.1f}H{across.end:g}", class_="grid") for it in up.ticks
    ]
    middle = (across.start + across.end) / 2
    turned = f"rotate(-90 13 {(up.start + up.end) / 2:g})"
    return [
        *lines,
        *below,
        *beside,
        element("text", x_name, x=middle, y=bottom + 38, text_anchor="middle", class_="axis"),
        element(
            "text",
            y_name,
            x=13,
            y=(up.start + up.end) / 2,
            transform=turned,
            text_anchor="middle",
            class_="axis",
        ),
    ]


def stacked_bars(
    title: str, bars: Sequence[tuple[str, Mapping[str, int]]], classes: Mapping[str, str]
) -> Markup:
    """Return one bar a name, its parts in the order of `classes`, which gives each part its class."""
    highest = max((sum(parts.values()) for _, parts in bars), default=0) or 1
    up = Scale(0, highest, _PLOT_HEIGHT - _BOTTOM, _TOP)
    step = (_PLOT_WIDTH - _LEFT - _RIGHT) / max(len(bars), 8)
    counts = [it for it in up.ticks if it == int(it)]
    lines = [
        element("path", d=f"M{_LEFT} {up.at(it):.1f}H{_PLOT_WIDTH - _RIGHT}", class_="grid") for it in counts
    ]
    labels = [element("text", f"{it:g}", x=_LEFT - 8, y=up.at(it) + 4, text_anchor="end") for it in counts]
    every = math.ceil(len(bars) / 5)
    names = [
        element("text", name, x=_LEFT + (at + 0.5) * step, y=_PLOT_HEIGHT - 24, text_anchor="middle")
        for at, (name, _) in enumerate(bars)
        if at % every == 0
    ]
    drawn = [
        part
        for at, (name, parts) in enumerate(bars)
        for part in _bar(name, parts, classes, up, (_LEFT + at * step + step * 0.1, step * 0.8))
    ]
    axis = element(
        "text", "week beginning", x=(_LEFT + _PLOT_WIDTH) / 2, y=_PLOT_HEIGHT - 6, text_anchor="middle"
    )
    return _picture(
        element("title", title),
        *(*lines, *labels, *names, *drawn, axis),
        width=_PLOT_WIDTH,
        height=_PLOT_HEIGHT,
        class_="bars",
        role="img",
    )


def _bar(
    name: str, parts: Mapping[str, int], classes: Mapping[str, str], up: Scale, place: tuple[float, float]
) -> list[Markup]:
    drawn, below = [], 0
    for part, class_ in classes.items():
        count = parts.get(part, 0)
        if count:
            top, bottom = up.at(below + count), up.at(below)
            drawn.append(
                element(
                    "rect",
                    element("title", f"{name}: {part} {count}"),
                    x=place[0],
                    y=top,
                    width=place[1],
                    height=bottom - top,
                    class_=class_,
                )
            )
            below += count
    return drawn


def swatch(class_: str) -> Markup:
    """Return a small square in the colour of a class, for legends."""
    return _picture(
        element("rect", x=1, y=1, width=10, height=10, class_=class_),
        width=12,
        height=12,
        class_="swatch",
        aria_hidden="true",
    )


def _picture(*parts: Markup, width: int, height: int, **attributes: object) -> Markup:
    return element("svg", *parts, viewBox=f"0 0 {width} {height}", width=width, height=height, **attributes)
