"""What plotly figures of reports have in common: colours, axes, intervals, and the forest chart.

Plain functions of plain data; they know no verb, no file and no model. What one verb alone draws
is in its folder's `charts.py`. Backgrounds are transparent, and the page's style sheet sets the
colours of text and grid, so that a figure follows the reader's light or dark theme. The trace
colours (after Okabe and Ito) are mid-tones that are legible on both and differ in lightness. Lines
also differ in dash or marker, never in colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from personavec.results import Estimate
from personavec.wording import signed as signed

BLUE = "#2a82c7"
ORANGE = "#d9661f"
GREEN = "#0f9d76"
PURPLE = "#b768a2"
GOLD = "#b58900"
GREY = "#868d96"

LINE_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GOLD, GREY)
LINE_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
LINE_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

LOG_ODDS = "log-odds (nats)"
COHERENCE = "coherence (0–100)"

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Bar:
    """One value of a forest chart, with its interval."""

    label: str
    """What it is of; labels go from top to bottom."""
    series: str
    """Whose it is; the series of a label lie next to each other, one colour each."""
    found: Estimate


def number(value: object) -> float | None:
    """The value as a finite float, or None where it is missing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def blank(x_title: str, y_title: str, height: int) -> go.Figure:
    """An empty figure in the house style: no frame, no zoom, legend above. `height` in pixels."""
    axis = {
        "fixedrange": True,
        "zeroline": False,
        "gridcolor": GREY,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "rgba(0,0,0,0)",
    }
    return go.Figure(
        layout={
            "template": {},
            "height": height,
            "margin": {"l": 64, "r": 14, "t": 12, "b": 52},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 13, "color": GREY},
            "separators": ".,",
            "dragmode": False,
            "hovermode": "closest",
            "hoverlabel": {"font": {"family": FONT, "size": 13}, "align": "left"},
            "legend": _LEGEND,
            "xaxis": {**axis, "title": {"text": x_title, "standoff": 8}, "showgrid": False},
            "yaxis": {**axis, "title": {"text": y_title, "standoff": 8}},
        }
    )


_LEGEND = {
    "orientation": "h",
    "x": 0,
    "xanchor": "left",
    "y": 1.02,
    "yanchor": "bottom",
    "bgcolor": "rgba(0,0,0,0)",
    "itemclick": False,
    "itemdoubleclick": False,
}


def forest(
    bars: Sequence[Bar],
    x_title: str,
    *,
    reference: float | None = None,
    span: tuple[float, float] | None = None,
) -> go.Figure:
    """Values with their intervals side by side, one line for each label and series.

    `reference` is drawn as a vertical line (no difference, chance); `span` fixes the axis. A label
    stands above its lines, not beside them, so that a narrow screen keeps its width for the values.
    """
    labels = list(dict.fromkeys(bar.label for bar in bars))
    series = list(dict.fromkeys(bar.series for bar in bars))
    # Lines of a label are one unit apart; its own line and the gap below it take 1.8.
    pitch = len(series) + 1.8
    figure = blank(x_title, "", height=int(100 + 19 * pitch * len(labels)))
    for index, name in enumerate(series):
        known = [bar for bar in bars if bar.series == name and bar.found.value is not None]
        lines = [labels.index(bar.label) * pitch + index + 1.1 for bar in known]
        _add_bars(figure, name, index, known, lines, showlegend=len(series) > 1)
    for place, label in enumerate(labels):
        _add_label(figure, label, place * pitch + 0.15)
    if reference is not None:
        figure.add_vline(x=reference, line={"color": GREY, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(
        range=[pitch * len(labels) - 0.4, -0.6], showgrid=False, showticklabels=False, title=None
    )
    figure.update_xaxes(showgrid=True, range=span)
    figure.update_layout(margin={"l": 14, "r": 14, "t": 34, "b": 52})
    return figure


def _add_bars(
    figure: go.Figure,
    name: str,
    index: int,
    bars: Sequence[Bar],
    lines: Sequence[float],
    *,
    showlegend: bool,
) -> None:
    """A series of a forest chart, each value at the height of its line."""
    figure.add_scatter(
        x=[bar.found.value for bar in bars],
        y=lines,
        error_x=error_bars([bar.found for bar in bars]) | {"thickness": 1.75, "width": 4},
        customdata=[bar.label + interval(bar.found) for bar in bars],
        mode="markers",
        name=name,
        marker={
            "size": 9,
            "symbol": LINE_SYMBOLS[index % len(LINE_SYMBOLS)],
            "color": LINE_COLOURS[index % len(LINE_COLOURS)],
        },
        showlegend=showlegend,
        hovertemplate=f"%{{x:.2f}} %{{customdata}}<extra>{name}</extra>",
    )


def _add_label(figure: go.Figure, label: str, height: float) -> None:
    figure.add_annotation(
        x=0,
        xref="paper",
        xanchor="left",
        y=height,
        text=label,
        showarrow=False,
        font={"size": 13},
    )


def add_histogram(
    figure: go.Figure,
    name: str,
    colour: str,
    edges: Sequence[float],
    heights: Sequence[float],
    *,
    hover: str,
    **more: Any,
) -> None:
    """A group's bars over bins of equal width; the groups of a figure are laid over each other."""
    shape = "" if colour == BLUE else "/"
    figure.add_bar(
        x=[(low + high) / 2 for low, high in pairwise(edges)],
        y=heights,
        width=edges[1] - edges[0],
        name=name,
        opacity=0.6,
        marker={
            "color": colour,
            "line": {"color": colour, "width": 1},
            "pattern": {"shape": shape, "size": 5, "solidity": 0.25, "fillmode": "overlay"},
        },
        hovertemplate=hover,
        **more,
    )
    figure.update_layout(barmode="overlay", bargap=0)


def add_level(
    figure: go.Figure,
    name: str,
    level: Estimate,
    span: tuple[float, float],
    colour: str,
    dash: str,
    shown: Callable[[float], str] = "{:.2f}".format,
) -> None:
    """What is reached without a dose, across the whole chart, with its interval as a band."""
    if level.value is None:
        return
    figure.add_scatter(
        x=padded(span),
        y=[level.value, level.value],
        mode="lines",
        name=name,
        line={"color": colour, "width": 1.75, "dash": dash},
        hovertemplate=f"{name}: {shown(level.value)}<extra></extra>",
    )
    if level.low is not None and level.high is not None:
        figure.add_hrect(
            y0=level.low, y1=level.high, fillcolor=colour, opacity=0.1, line_width=0, layer="below"
        )


def add_band(
    figure: go.Figure, along: Sequence[float], found: Sequence[Estimate], colour: str
) -> None:
    """The intervals of a line as a faint band; points without one leave it out."""
    known = [
        (x, each.low, each.high)
        for x, each in zip(along, found, strict=True)
        if None not in (number(each.value), number(each.low), number(each.high))
    ]
    if not known:
        return
    figure.add_scatter(
        x=[x for x, *_ in known] + [x for x, *_ in reversed(known)],
        y=[high for *_, high in known] + [low for _, low, _ in reversed(known)],
        mode="lines",
        fill="toself",
        fillcolor=faint(colour, 0.16),
        line={"width": 0},
        showlegend=False,
        hoverinfo="skip",
    )


def error_bars(found: Sequence[Estimate]) -> dict[str, Any]:
    """Distances from the values to their bounds; a value without a bound gets no bar there."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [_distance(each.high, each.value) for each in found],
        "arrayminus": [_distance(each.value, each.low) for each in found],
    }


def _distance(above: float | None, below: float | None) -> float | None:
    top, bottom = number(above), number(below)
    return None if top is None or bottom is None else max(top - bottom, 0.0)


def interval(found: Estimate) -> str:
    """What a hover box says after the value: " [0.50, 1.50]", nothing where it is missing."""
    low, high = number(found.low), number(found.high)
    if low is None or high is None:
        return ""
    return f" [{low:.2f}, {high:.2f}]".replace("-", "−")


def shortened(text: str, limit: int = 28) -> str:
    """A label of at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def padded(span: tuple[float, float]) -> list[float]:
    """An axis that ends a little beyond its data."""
    margin = 0.06 * (span[1] - span[0])
    return [span[0] - margin, span[1] + margin]


def faint(colour: str, alpha: float) -> str:
    """A colour `#rrggbb` with an opacity of 0 to 1."""
    red, green, blue = (int(colour[index : index + 2], 16) for index in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
