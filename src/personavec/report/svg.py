"""A chart as an SVG picture: no script draws it, so that it is seen on paper and in any reader.

Marks have their own colours; texts, axes and grid take theirs from the page's style sheet, so that
a picture follows the reader's light or dark theme. Pointing at a value tells it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from personavec.report.charts import (
    Area,
    Axis,
    Bins,
    Chart,
    Label,
    Mark,
    Point,
    Rule,
    Series,
)
from personavec.wording import decimal

#: Width of a letter of the labels, in pixels, on average.
_LETTER = 6.6
_TOP, _RIGHT, _BOTTOM = 8.0, 14.0, 46.0
_LEGEND_LINE = 20.0
#: Numbers of an axis are at least about so many pixels apart.
_APART = 50.0


@dataclass(frozen=True)
class _Frame:
    """Where the marks lie, in pixels, and which values the edges have."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        """The place of a value of x."""
        return self.left + _share(value, self.x) * (self.right - self.left)

    def down(self, value: float) -> float:
        """The place of a value of y."""
        return self.bottom - _share(value, self.y) * (self.bottom - self.top)


def draw(chart: Chart, title: str, width: int, class_: str) -> Markup:
    """The picture, `width` pixels wide; `title` is what a screen reader says of it."""
    legend = _legend_lines(chart.marks, width)
    top = _TOP + _LEGEND_LINE * len(legend)
    height = chart.height + _LEGEND_LINE * len(legend)
    frame = _framed(chart, width, top, height)
    parts = [
        *_legend(legend),
        *_axes(chart, frame, height),
        *(part for mark in _in_order(chart.marks) for part in _drawn(mark, frame)),
    ]
    # A line for each text: without the shapes they would run together.
    joined = re.sub("(</(?:text|title)>)", r"\1\n", "".join(parts))
    return Markup(
        f'<svg class="{class_}" viewBox="0 0 {width} {height:g}" role="img" '
        f'aria-label="{escape(title)}">{joined}</svg>'
    )


# Where everything lies


def _framed(chart: Chart, width: int, top: float, height: float) -> _Frame:
    x = _ends(chart.x, [v for mark in chart.marks for v in _values(mark, upright=True)])
    y = _ends(chart.y, [v for mark in chart.marks for v in _values(mark, upright=False)])
    bottom = height - (_BOTTOM if chart.x.title else 26.0)
    numbers = _ticks(chart.y, y, bottom - top) if chart.y.numbered else []
    widest = max((len(text) for _, text in numbers), default=0) * _LETTER
    left = 8 + widest + (22 if chart.y.title else 4)
    return _Frame(left, top, width - _RIGHT, bottom, x, y)


def _ends(axis: Axis, values: Sequence[float]) -> tuple[float, float]:
    if axis.span is not None:
        return axis.span
    known = [*values, *([0.0] if axis.zero else [])]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if low == high:
        low, high = low - 1, high + 1
    margin = 0.05 * (high - low)
    return (low if axis.zero and low == 0 else low - margin, high + margin)


def _values(mark: Mark, *, upright: bool) -> Iterable[float]:
    """The values of x that a mark must be seen at, or of y."""
    if isinstance(mark, Series):
        for point in mark.points:
            yield point.x if upright else point.y
            if mark.across == upright and (mark.whiskers or mark.band):
                yield from (end for end in (point.low, point.high) if end is not None)
    elif isinstance(mark, Bins):
        yield from mark.edges if upright else (0.0, *mark.heights)
    elif isinstance(mark, Rule) and mark.upright == upright:
        yield mark.at
    elif isinstance(mark, Area) and mark.upright == upright:
        yield from (mark.low, mark.high)


def _share(value: float, ends: tuple[float, float]) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])


def _ticks(axis: Axis, ends: tuple[float, float], pixels: float) -> list[tuple[float, str]]:
    """Round values between the ends, with what is written at them."""
    low, high = sorted(ends)
    raw = (high - low) / max(3.0, pixels / _APART)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
    if axis.whole:
        step = max(1.0, round(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(n * step, _written(axis, n * step, digits)) for n in range(first, last + 1)]


def _written(axis: Axis, value: float, digits: int) -> str:
    if axis.percent:
        return f"{100 * value:.{max(0, digits - 2)}f}%"
    return decimal(value + 0.0, f".{digits}f")


# Legend and axes


def _legend_lines(marks: Sequence[Mark], width: int) -> list[list[tuple[float, Mark]]]:
    """What the legend has, line by line, each with its place from the left."""
    lines: list[list[tuple[float, Mark]]] = []
    place = 0.0
    for mark in marks:
        name = _listed(mark)
        if not name:
            continue
        needed = 30 + len(name) * _LETTER + 16
        if not lines or place + needed - 16 > width:
            lines.append([])
            place = 4.0
        lines[-1].append((place, mark))
        place += needed
    return lines


def _listed(mark: Mark) -> str:
    if isinstance(mark, Series):
        return mark.name if mark.listed and mark.points else ""
    return mark.name if isinstance(mark, Bins | Rule | Area) else ""


def _legend(lines: Sequence[Sequence[tuple[float, Mark]]]) -> Iterable[str]:
    for row, line in enumerate(lines):
        y = 10 + _LEGEND_LINE * row
        for x, mark in line:
            yield from _sample(mark, x, y)
            yield f'<text class="name" x="{x + 30:g}" y="{y + 4:g}">{escape(_listed(mark))}</text>'


def _sample(mark: Mark, x: float, y: float) -> Iterable[str]:
    """How a mark looks, for the legend."""
    if isinstance(mark, Bins):
        yield _box(x + 2, y - 5, 20, 10, mark.colour, filled=mark.filled)
    elif isinstance(mark, Area):
        yield _rectangle(x + 2, y - 5, 20, 10, mark.colour, max(0.25, mark.opacity))
    elif isinstance(mark, Rule):
        yield _line(x, y, x + 24, y, mark.style.colour, mark.style.dash)
    elif isinstance(mark, Series):
        if mark.joined:
            yield _line(x, y, x + 24, y, mark.style.colour, mark.style.dash, 2)
        if mark.marked:
            yield _symbol(mark.style.symbol, x + 12, y, mark.style.colour)


def _axes(chart: Chart, frame: _Frame, height: float) -> Iterable[str]:
    for value, text in _ticks(chart.x, frame.x, frame.right - frame.left):
        x = frame.across(value)
        if chart.x.grid:
            yield _grid(x, frame.top, x, frame.bottom)
        yield f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{frame.bottom + 17:.1f}">'
        yield f"{text}</text>"
    if chart.y.numbered:
        for value, text in _ticks(chart.y, frame.y, frame.bottom - frame.top):
            y = frame.down(value)
            yield _grid(frame.left, y, frame.right, y)
            yield f'<text class="tick" text-anchor="end" x="{frame.left - 7:.1f}" y="{y + 4:.1f}">'
            yield f"{text}</text>"
    middle = (frame.left + frame.right) / 2
    if chart.x.title:
        yield f'<text class="title" text-anchor="middle" x="{middle:.1f}" y="{height - 8:.1f}">'
        yield f"{escape(chart.x.title)}</text>"
    if chart.y.title:
        y = (frame.top + frame.bottom) / 2
        yield f'<text class="title" text-anchor="middle" transform="translate(13 {y:.1f}) '
        yield f'rotate(-90)">{escape(chart.y.title)}</text>'


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="grid" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


# Marks


def _in_order(marks: Sequence[Mark]) -> list[Mark]:
    """Areas lie below lines, and lines below series."""
    order = (Area, Bins, Rule, Series, Label)
    return sorted(marks, key=lambda mark: order.index(type(mark)))


def _drawn(mark: Mark, frame: _Frame) -> Iterable[str]:
    if isinstance(mark, Series):
        return _series(mark, frame)
    if isinstance(mark, Bins):
        return _bins(mark, frame)
    if isinstance(mark, Rule):
        return _rule(mark, frame)
    if isinstance(mark, Area):
        return _area(mark, frame)
    y = frame.down(mark.y) + 4
    return [f'<text class="name" x="{frame.left:.1f}" y="{y:.1f}">{escape(mark.text)}</text>']


def _rule(mark: Rule, frame: _Frame) -> Iterable[str]:
    colour, dash = mark.style.colour, mark.style.dash
    if mark.upright:
        x = frame.across(mark.at)
        yield _line(x, frame.top, x, frame.bottom, colour, dash)
    else:
        y = frame.down(mark.at)
        yield _line(frame.left, y, frame.right, y, colour, dash)


def _area(mark: Area, frame: _Frame) -> Iterable[str]:
    place = frame.across if mark.upright else frame.down
    low, high = sorted((place(mark.low), place(mark.high)))
    if mark.upright:
        low, high = max(low, frame.left), min(high, frame.right)
        yield _rectangle(
            low, frame.top, high - low, frame.bottom - frame.top, mark.colour, mark.opacity
        )
    else:
        low, high = max(low, frame.top), min(high, frame.bottom)
        yield _rectangle(
            frame.left, low, frame.right - frame.left, high - low, mark.colour, mark.opacity
        )


def _bins(mark: Bins, frame: _Frame) -> Iterable[str]:
    floor = frame.down(0.0)
    for index, (height, said) in enumerate(zip(mark.heights, mark.said, strict=True)):
        if not height:
            continue
        left, right = (frame.across(edge) for edge in mark.edges[index : index + 2])
        top = frame.down(height)
        drawn = _box(left, top, right - left, floor - top, mark.colour, filled=mark.filled)
        yield _told(drawn, said)


def _series(mark: Series, frame: _Frame) -> Iterable[str]:
    places = [(frame.across(point.x), frame.down(point.y)) for point in mark.points]
    if mark.band:
        yield _band(mark, frame)
    if mark.joined and len(places) > 1:
        way = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        yield (
            f'<path d="M{way}" fill="none" stroke="{mark.style.colour}" stroke-width="2"'
            f"{_dashed(mark.style.dash)}/>"
        )
    if mark.marked:
        for point, (x, y) in zip(mark.points, places, strict=True):
            colour = point.colour or mark.style.colour
            drawn = _whisker(mark, point, frame, colour) if mark.whiskers else ""
            drawn += _symbol(mark.style.symbol, x, y, colour, hollow=point.hollow)
            yield _told(drawn, point.said)


def _band(mark: Series, frame: _Frame) -> str:
    """The intervals of a line as a faint area; points without one are left out."""
    known = [(p.x, p.low, p.high) for p in mark.points if p.low is not None and p.high is not None]
    if len(known) < 2:
        return ""
    edge = [(x, high) for x, _, high in known] + [(x, low) for x, low, _ in reversed(known)]
    way = "L".join(f"{frame.across(x):.1f} {frame.down(y):.1f}" for x, y in edge)
    return f'<path d="M{way}Z" fill="{mark.style.colour}" fill-opacity="0.16"/>'


def _whisker(mark: Series, point: Point, frame: _Frame, colour: str) -> str:
    if point.low is None or point.high is None:
        return ""
    x, y = frame.across(point.x), frame.down(point.y)
    if mark.across:
        low, high = frame.across(point.low), frame.across(point.high)
        return "".join(
            _line(*ends, colour, "", 1.75)
            for ends in (
                (low, y, high, y),
                (low, y - 4, low, y + 4),
                (high, y - 4, high, y + 4),
            )
        )
    low, high = frame.down(point.low), frame.down(point.high)
    return "".join(
        _line(*ends, colour, "", 1.5)
        for ends in (
            (x, low, x, high),
            (x - 3, low, x + 3, low),
            (x - 3, high, x + 3, high),
        )
    )


# Shapes


def _told(drawn: str, said: str) -> str:
    """A shape that says something when it is pointed at."""
    return f"<g>{drawn}<title>{escape(said)}</title></g>" if said else drawn


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, dash: str, width: float = 1.5
) -> str:
    return (
        f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width:g}"{_dashed(dash)}/>'
    )


def _dashed(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""


def _rectangle(x: float, y: float, w: float, h: float, colour: str, opacity: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{colour}" '
        f'fill-opacity="{opacity:g}"/>'
    )


def _box(x: float, y: float, w: float, h: float, colour: str, *, filled: bool) -> str:
    """A bar of a histogram; that of a second group is an outline, which shows the first below."""
    look = 'fill-opacity="0.5"' if filled else f'fill-opacity="0.06" stroke="{colour}"'
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{colour}" {look}/>'
    )


_SHAPES: dict[str, Callable[[float, float], str]] = {
    "square": lambda x, y: f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8Z",
    "diamond": lambda x, y: f"M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5Z",
    "triangle": lambda x, y: f"M{x:.1f} {y - 5:.1f}l5 9h-10Z",
    "cross": lambda x, y: f"M{x - 3.5:.1f} {y - 3.5:.1f}l7 7m0 -7l-7 7",
}


def _symbol(kind: str, x: float, y: float, colour: str, *, hollow: bool = False) -> str:
    fill = 'class="hollow"' if hollow else f'fill="{colour}"'
    look = f'{fill} stroke="{colour}" stroke-width="2"'
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {look}/>'
    return f'<path d="{_SHAPES[kind](x, y)}" {look}/>'
