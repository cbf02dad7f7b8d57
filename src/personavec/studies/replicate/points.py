"""A scatter of points with intervals, drawn with matplotlib: one figure of one reading each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from personavec.report.drawing import COLOURS, GREY, MARKERS, Plane
from personavec.report.plots import Row, estimate_of
from personavec.terminal import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scatter(rows: Sequence[Row], width: float, plane: Plane) -> Figure:
    """Every row at its `plane.x` and `plane.y`, with its interval; series differ in shape too."""
    from matplotlib.figure import Figure

    series = list(dict.fromkeys(str(row["series"]) for row in rows))
    figure = Figure(figsize=(width, plane.height + 0.12 * len(series)))
    axes = figure.add_subplot()
    axes.set_xlabel(plane.x_title)
    axes.set_ylabel(plane.y_title)
    if plane.zero:
        axes.axhline(0, color=GREY, linewidth=0.6, linestyle=(0, (1, 2)))
    for index, name in enumerate(series):
        own = [row for row in rows if row["series"] == name and row[plane.y] is not None]
        found = [estimate_of(row, plane.y) for row in own]
        values = [e.value or 0.0 for e in found]
        # A percentile interval need not hold its value.
        below = [
            v - min(v, v if e.low is None else e.low) for v, e in zip(values, found, strict=True)
        ]
        above = [
            max(v, v if e.high is None else e.high) - v for v, e in zip(values, found, strict=True)
        ]
        axes.errorbar(
            [float(row[plane.x] or 0) for row in own],
            values,
            yerr=[below, above],
            linestyle="none",
            marker=MARKERS[index % len(MARKERS)],
            markersize=3,
            color=COLOURS[(index + index // len(MARKERS)) % len(COLOURS)],
            elinewidth=0.5,
            label=shown(name),
        )
    axes.grid(axis="y")
    figure.legend(loc="outside upper left", ncols=2)
    return figure
