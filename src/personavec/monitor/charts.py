"""Charts of a monitored log's report: readings by turn, and the server's control chart."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from personavec.monitor.results import ServerLevel, TurnMeans
from personavec.report import charts as kit
from personavec.results import Estimate
from personavec.wording import plural


def turn_lines(by_turn: Sequence[TurnMeans]) -> go.Figure:
    """Mean readings by assistant turn, before and after the answer, with interval bands."""
    figure = kit.blank("assistant turn", "σ of neutral prompts", height=320)
    _add_line(figure, 0, "before the answer", by_turn, [row.prompt_last for row in by_turn])
    _add_line(figure, 1, "answer", by_turn, [row.response_mean for row in by_turn])
    figure.add_hline(y=0, line={"color": kit.GREY, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(showgrid=True)
    return figure


def server_chart(points: Sequence[ServerLevel], limit: float) -> go.Figure:
    """The level of the server's control chart over all replies, with its limit."""
    figure = kit.blank("reply", "level of the chart", height=260)
    figure.add_scatter(
        x=[point.reply + 1 for point in points],
        y=[point.level for point in points],
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


def _add_line(
    figure: go.Figure,
    index: int,
    name: str,
    by_turn: Sequence[TurnMeans],
    found: Sequence[Estimate],
) -> None:
    """Add a line of one kind of reading by turn; turns without it are left out."""
    colour = kit.LINE_COLOURS[index]
    kit.add_band(figure, [row.turn for row in by_turn], found, colour)
    known = [(r, e) for r, e in zip(by_turn, found, strict=True) if e.value is not None]
    figure.add_scatter(
        x=[row.turn for row, _ in known],
        y=[each.value for _, each in known],
        customdata=[f"{kit.interval(each)}<br>{plural(row.n, 'turn')}" for row, each in known],
        mode="lines+markers",
        name=name,
        line={"color": colour, "width": 2, "dash": kit.LINE_DASHES[index]},
        marker={"size": 7, "symbol": kit.LINE_SYMBOLS[index]},
        hovertemplate=f"turn %{{x}}, {name}: %{{y:.2f}}%{{customdata}}<extra></extra>",
    )
