"""What charts are made of: marks on two axes, as plain data; `svg.py` draws them.

They know no verb, no file and no model. What one verb alone draws is in its folder's `charts.py`.
Orange is toward a trait and blue away from it, and nothing else has these colours. The colours
(after Okabe and Ito) are mid-tones that are legible on light and dark paper and differ in
lightness. Lines also differ in dash or marker, never in colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

from personavec.results import Estimate
from personavec.wording import decimal, signed as signed

BLUE = "#2a82c7"
ORANGE = "#d9661f"
GREEN = "#0f9d76"
PURPLE = "#a86bc0"
GOLD = "#b58900"
BROWN = "#9c6a4f"
GREY = "#868d96"

#: What a value is drawn in, by its sign.
TOWARD, AWAY = ORANGE, BLUE

LINE_COLOURS = (PURPLE, GREEN, GOLD, BROWN, GREY)
LINE_SYMBOLS = ("circle", "square", "diamond", "triangle", "cross")
#: Lengths of strokes and gaps; a solid line has none.
LINE_DASHES = ("", "7 4", "2 3", "8 3 2 3", "12 4")

LOG_ODDS = "log-odds (nats)"
COHERENCE = "coherence (0–100)"


@dataclass(frozen=True)
class Bar:
    """One value of a forest chart, with its interval."""

    label: str
    """What it is of; labels go from top to bottom."""
    series: str
    """Whose it is; the series of a label lie next to each other, one colour each."""
    found: Estimate


@dataclass(frozen=True)
class Style:
    """How a series looks: it differs from others in colour, in dash and in marker."""

    colour: str
    dash: str = ""
    symbol: str = "circle"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A value at a place, with its interval if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    said: str = ""
    """What the reader sees on pointing at it."""
    hollow: bool = False
    colour: str | None = None
    """In place of the series' own."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one name: joined, marked, or both."""

    name: str
    points: tuple[Point, ...]
    style: Style
    joined: bool = True
    marked: bool = True
    band: bool = False
    """Whether intervals are a faint band along the line."""
    whiskers: bool = False
    """Whether intervals are bars at the points."""
    across: bool = False
    """Whether intervals lie along x."""
    listed: bool = True
    """Whether the legend has it."""


@dataclass(frozen=True, kw_only=True)
class Bins:
    """A group's histogram; the groups of a chart are laid over each other."""

    name: str
    colour: str
    edges: tuple[float, ...]
    heights: tuple[float, ...]
    said: tuple[str, ...]
    filled: bool = True
    """Or only outlined."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A line across the whole chart, at a value of x where it is upright, else of y."""

    at: float
    upright: bool = False
    name: str = ""
    """What the legend says; nothing for a line that explains itself."""
    style: Style = field(default=Style(GREY, "2 3"))


@dataclass(frozen=True, kw_only=True)
class Area:
    """A faint area across the whole chart, between two values of x or of y."""

    low: float
    high: float
    upright: bool = False
    name: str = ""
    colour: str = GREY
    opacity: float = 0.15


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text at the left edge, at a height in units of y."""

    y: float
    text: str


Mark: TypeAlias = Series | Bins | Rule | Area | Label


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis: its title and, where the data do not say them, its ends and its marks."""

    title: str = ""
    span: tuple[float, float] | None = None
    """From left to right, or from bottom to top; the first may be the larger one."""
    zero: bool = False
    """Whether 0 is always on it."""
    whole: bool = False
    """Whether only whole numbers are marked."""
    percent: bool = False
    grid: bool = False
    numbered: bool = True


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Marks on two axes; `height` is in pixels, without the legend."""

    x: Axis
    y: Axis
    height: int
    marks: tuple[Mark, ...]


def style(index: int) -> Style:
    """The look of the series at a place, counted from 0."""
    return Style(
        LINE_COLOURS[index % len(LINE_COLOURS)],
        LINE_DASHES[index % len(LINE_DASHES)],
        LINE_SYMBOLS[index % len(LINE_SYMBOLS)],
    )


def side(value: float) -> str:
    """The colour of a value by its sign; grey for 0."""
    return TOWARD if value > 0 else AWAY if value < 0 else GREY


def number(value: object) -> float | None:
    """The value as a finite float, or None where it is missing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def points(
    along: Sequence[float],
    found: Sequence[Estimate],
    said: Callable[[int], str] = lambda index: "",
) -> tuple[Point, ...]:
    """Estimates at their places; one without a value is left out.

    `said` gives what the reader sees of the one at an index, after its value and interval.
    """
    return tuple(
        Point(
            x=x,
            y=each.value,
            low=number(each.low),
            high=number(each.high),
            said=f"{decimal(each.value)}{interval(each)}{said(index)}",
        )
        for index, (x, each) in enumerate(zip(along, found, strict=True))
        if each.value is not None
    )


def forest(
    bars: Sequence[Bar],
    x_title: str,
    *,
    reference: float | None = None,
    span: tuple[float, float] | None = None,
    by_side: bool = False,
) -> Chart:
    """Values with their intervals side by side, one line for each label and series.

    `reference` is drawn as a vertical line (no difference, chance); `span` fixes the axis; with
    `by_side` a value has the colour of its sign. A label stands above its lines, not beside them,
    so that a narrow screen keeps its width for the values.
    """
    labels = list(dict.fromkeys(bar.label for bar in bars))
    series = list(dict.fromkeys(bar.series for bar in bars))
    # Lines of a label are one unit apart; its own line and the gap below it take 1.8.
    pitch = len(series) + 1.8
    marks: list[Mark] = [Rule(at=reference, upright=True)] if reference is not None else []
    marks += [Label(y=place * pitch + 0.15, text=label) for place, label in enumerate(labels)]
    for index, name in enumerate(series):
        known = [bar for bar in bars if bar.series == name and bar.found.value is not None]
        heights = [labels.index(bar.label) * pitch + index + 1.1 for bar in known]
        drawn = tuple(map(_bar(by_side=by_side), known, heights))
        marks.append(
            Series(
                name=name,
                points=drawn,
                style=style(index),
                joined=False,
                whiskers=True,
                across=True,
                listed=len(series) > 1,
            )
        )
    return Chart(
        x=Axis(title=x_title, span=span, grid=True),
        y=Axis(span=(pitch * len(labels) - 0.4, -0.6), numbered=False),
        height=int(62 + 19 * pitch * len(labels)),
        marks=tuple(marks),
    )


def _bar(*, by_side: bool) -> Callable[[Bar, float], Point]:
    def drawn(bar: Bar, height: float) -> Point:
        value = bar.found.value or 0.0
        return Point(
            x=value,
            y=height,
            low=number(bar.found.low),
            high=number(bar.found.high),
            said=f"{bar.label}, {bar.series}: {decimal(value)}{interval(bar.found)}",
            colour=side(value) if by_side else None,
        )

    return drawn


def histogram(
    name: str,
    colour: str,
    edges: Sequence[float],
    heights: Sequence[float],
    said: Callable[[float, float], str],
    *,
    filled: bool = True,
) -> Bins:
    """A group's bars over bins; `said` takes the height of a bin and its middle."""
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return Bins(
        name=name,
        colour=colour,
        edges=tuple(edges),
        heights=tuple(heights),
        said=tuple(map(said, heights, middles)),
        filled=filled,
    )


def level(name: str, found: Estimate, colour: str, dash: str) -> list[Mark]:
    """What is reached without a dose, across the whole chart, with its interval as a band."""
    if found.value is None:
        return []
    marks: list[Mark] = [Rule(at=found.value, name=name, style=Style(colour, dash))]
    if found.low is not None and found.high is not None:
        marks.insert(0, Area(low=found.low, high=found.high, colour=colour, opacity=0.1))
    return marks


def interval(found: Estimate) -> str:
    """What is said after a value: " [0.50, 1.50]", nothing where it is missing."""
    low, high = number(found.low), number(found.high)
    return "" if low is None or high is None else f" [{decimal(low)}, {decimal(high)}]"


def shortened(text: str, limit: int = 28) -> str:
    """A label of at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def padded(span: tuple[float, float]) -> tuple[float, float]:
    """An axis that ends a little beyond its data."""
    margin = 0.06 * (span[1] - span[0])
    return (span[0] - margin, span[1] + margin)
