"""What a monitored log's report draws: readings along the turns, and the server's control chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from personavec.report import charts as kit
from personavec.results import Estimate
from personavec.wording import plural

Row = Mapping[str, Any]


def turn_lines(lines: Sequence[tuple[str, Sequence[Row]]]) -> go.Figure:
    """Mean readings by assistant turn, one line a kind of reading, with interval bands."""
    figure = kit.blank("assistant turn", "σ of neutral prompts", height=320)
    for index, (name, rows) in enumerate(lines):
        colour = kit.LINE_COLOURS[index]
        found = [Estimate(row["value"], row["low"], row["high"]) for row in rows]
        kit.add_band(figure, [row["turn"] for row in rows], found, colour)
        known = [(row, e) for row, e in zip(rows, found, strict=True) if e.value is not None]
        figure.add_scatter(
            x=[row["turn"] for row, _ in known],
            y=[each.value for _, each in known],
            customdata=[f"{kit.interval(e)}<br>{plural(row['n'], 'turn')}" for row, e in known],
            mode="lines+markers",
            name=name,
            line={"color": colour, "width": 2, "dash": kit.LINE_DASHES[index]},
            marker={"size": 7, "symbol": kit.LINE_SYMBOLS[index]},
            hovertemplate=f"turn %{{x}}, {name}: %{{y:.2f}}%{{customdata}}<extra></extra>",
        )
    figure.add_hline(y=0, line={"color": kit.GREY, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(showgrid=True)
    return figure


def server_chart(points: Sequence[Row], limit: float) -> go.Figure:
    """A control chart's level over all replies, with its limit where the scale reaches it."""
    figure = kit.blank("reply", "level of the chart", height=260)
    figure.add_scatter(
        x=[row["reply"] + 1 for row in points],
        y=[row["level"] for row in points],
        mode="lines",
        line={"color": kit.BLUE, "width": 1.5},
        showlegend=False,
        hovertemplate="reply %{x}: %{y:.2f}<extra></extra>",
    )
    figure.add_hline(
        y=limit,
        line={"color": kit.ORANGE, "width": 1.5, "dash": "dash"},
        name=f"limit, {limit:.2f}",
        showlegend=True,
    )
    figure.update_yaxes(showgrid=True)
    return figure
