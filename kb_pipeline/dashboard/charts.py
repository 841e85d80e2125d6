"""Pictures as SVG text: numbers in, one element out. Colours are classes; the style sheet knows both themes.

Only drawing: what is drawn, in which order and with which words is decided by who calls.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from markupsafe import Markup, escape

ROW_HEIGHT: Final = 30
"""Of a row of dots in px; rows stand without gaps, so that the zero line is one line."""

_DOTS_WIDTH, _DOTS_MARGIN = 230, 12
_PLOT_WIDTH, _PLOT_HEIGHT = 420, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 44
_LANE_NAME_WIDTH = 170


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
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * it for it in (1, 2, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
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
    """A median and its interval; None where unknown.

    `is_thin` marks one of too few values, `is_narrow` one whose interval promises too much.
    """

    median: float | None
    low: float | None
    high: float | None
    is_thin: bool = False
    is_narrow: bool = False

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
    labels = [_text(tick_text(it), scale.at(it), 14) for it in scale.ticks]
    marks = [_line(f"M{scale.at(it):.1f} 19v5", "tick") for it in scale.ticks]
    return _picture(*labels, *marks, width=_DOTS_WIDTH, height=24, class_="dots", aria_hidden="true")


def dot_row(dot: Dot, scale: Scale) -> Markup:
    """Return one row: zero line, interval, dot. Its numbers stand beside it, so it is hidden from readers."""
    middle = ROW_HEIGHT / 2
    parts = [_line(f"M{scale.at(0):.1f} 0v{ROW_HEIGHT}", "zero")]
    if dot.median is None:
        parts.append(_text("unknown", scale.at(0) + 6, middle + 4, "start", class_="unknown"))
    else:
        if dot.low is not None and dot.high is not None:
            ends = f"M{scale.at(dot.low):.1f} {middle:g}H{scale.at(dot.high):.1f}"
            parts.append(_line(ends, "interval"))
        parts.append(element("circle", cx=scale.at(dot.median), cy=middle, r=4.5))
    kind = f"dots {dot.verdict}{' is-thin' * dot.is_thin}{' is-narrow' * dot.is_narrow}"
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
        _line(diagonal, "diagonal"),
        *circles,
        width=_PLOT_WIDTH,
        height=_PLOT_HEIGHT,
        class_="scatter",
        role="img",
    )


def _frame(across: Scale, up: Scale, x_name: str, y_name: str) -> list[Markup]:
    """Return grid, ticks and names of two axes."""
    bottom, left = up.start, across.start
    lines = [_line(f"M{across.at(it):.1f} {bottom:g}V{up.end:g}", "grid") for it in across.ticks]
    lines += [_line(f"M{left:g} {up.at(it):.1f}H{across.end:g}", "grid") for it in up.ticks]
    below = [_text(tick_text(it), across.at(it), bottom + 18) for it in across.ticks]
    beside = [_text(tick_text(it), left - 8, up.at(it) + 4, "end") for it in up.ticks]
    middle = (up.start + up.end) / 2
    turned = {"transform": f"rotate(-90 13 {middle:g})", "class_": "axis"}
    return [
        *lines,
        *below,
        *beside,
        _text(x_name, (across.start + across.end) / 2, bottom + 38, class_="axis"),
        _text(y_name, 13.0, middle, **turned),
    ]


def stacked_bars(
    title: str, bars: Sequence[tuple[str, Mapping[str, int]]], classes: Mapping[str, str]
) -> Markup:
    """Return one bar a name, its parts in the order of `classes`, which gives each part its class."""
    highest = max((sum(parts.values()) for _, parts in bars), default=0) or 1
    up = Scale(0, highest, _PLOT_HEIGHT - _BOTTOM, _TOP)
    step = (_PLOT_WIDTH - _LEFT - _RIGHT) / max(len(bars), 8)
    every = math.ceil(len(bars) / 5)
    names = [
        _text(name, _LEFT + (at + 0.5) * step, up.start + 18)
        for at, (name, _) in enumerate(bars)
        if at % every == 0
    ]
    drawn = [
        _bar_part(f"{name}: {part} {parts[part]}", classes[part], bounds, _LEFT + at * step, step)
        for at, (name, parts) in enumerate(bars)
        for part, bounds in _stacked(parts, classes, up)
    ]
    return _picture(
        element("title", title),
        *(*_count_grid(up), *names, *drawn),
        width=_PLOT_WIDTH,
        height=_PLOT_HEIGHT - 16,
        class_="bars",
        role="img",
    )


def _stacked(
    parts: Mapping[str, int], order: Iterable[str], up: Scale
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield each part there is with its bottom and top in px."""
    below = 0
    for part in order:
        if count := parts.get(part, 0):
            yield part, (up.at(below), up.at(below + count))
            below += count


def _bar_part(name: str, class_: str, bounds: tuple[float, float], left: float, step: float) -> Markup:
    bottom, top = bounds
    box = {"x": left + step * 0.1, "y": top, "width": step * 0.8, "height": bottom - top}
    return element("rect", element("title", name), class_=class_, **box)


def _count_grid(up: Scale) -> list[Markup]:
    counts = [it for it in up.ticks if it == int(it)]
    lines = [_line(f"M{_LEFT} {up.at(it):.1f}H{_PLOT_WIDTH - _RIGHT}", "grid") for it in counts]
    return lines + [_text(f"{it:g}", _LEFT - 8, up.at(it) + 4, "end") for it in counts]


@dataclass(frozen=True, slots=True)
class Span:
    """A time from `start` to `end`, None where it lasts, and what it is of."""

    start: datetime
    end: datetime | None
    name: str


def timeline(title: str, lanes: Sequence[tuple[str, Sequence[Span]]]) -> Markup:
    """Return one lane a name with its spans; one that lasts runs to the end of the picture."""
    moments = [it for _, spans in lanes for span in spans for it in (span.start, span.end or span.start)]
    first, last = min(moments), max(moments) + timedelta(days=1)
    across = Scale(first.timestamp(), last.timestamp(), _LANE_NAME_WIDTH, _PLOT_WIDTH - _RIGHT)
    bottom = _TOP + ROW_HEIGHT * len(lanes)
    days = [first + (last - first) * share for share in (0, 0.5, 1)]
    labels = [
        _text(f"{day:%Y-%m-%d}", across.at(day.timestamp()), bottom + 18, anchor)
        for day, anchor in zip(days, ("start", "middle", "end"), strict=True)
    ]
    drawn = [
        part
        for at, (name, spans) in enumerate(lanes)
        for part in _lane(name, spans, across, _TOP + ROW_HEIGHT * (at + 0.5))
    ]
    return _picture(
        element("title", title),
        *(*labels, *drawn),
        width=_PLOT_WIDTH,
        height=bottom + 26,
        class_="timeline",
        role="img",
    )


def _lane(name: str, spans: Sequence[Span], across: Scale, y: float) -> list[Markup]:
    parts = [
        _text(name, _LANE_NAME_WIDTH - 10, y + 4, "end"),
        _line(f"M{across.start:g} {y:g}H{across.end:g}", "grid"),
    ]
    for span in spans:
        start = across.at(span.start.timestamp())
        end = across.at(span.end.timestamp()) if span.end else across.end
        parts.append(_line(f"M{start:.1f} {y:g}H{end:.1f}", "span"))
        parts.append(element("circle", element("title", span.name), cx=start, cy=y, r=4.5))
    return parts


def swatch(class_: str) -> Markup:
    """Return a small square in the colour of a class, for legends."""
    return _picture(
        element("rect", x=1, y=1, width=10, height=10, class_=class_),
        width=12,
        height=12,
        class_="swatch",
        aria_hidden="true",
    )


def _text(text: str, x: float, y: float, anchor: str = "middle", **attributes: object) -> Markup:
    return element("text", text, x=x, y=y, text_anchor=anchor, **attributes)


def _line(path: str, class_: str) -> Markup:
    return element("path", d=path, class_=class_)


def _picture(*parts: Markup, width: int, height: int, **attributes: object) -> Markup:
    return element("svg", *parts, viewBox=f"0 0 {width} {height}", width=width, height=height, **attributes)
