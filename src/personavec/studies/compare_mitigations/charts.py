"""What the report on mitigations draws: a measure against the dose of each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from personavec.report import charts as kit
from personavec.results import Estimate

Row = Mapping[str, Any]


def arms_by_dose(
    lines: Sequence[tuple[str, Sequence[Row]]],
    levels: Sequence[tuple[str, Row]],
    y_title: str,
) -> go.Figure:
    """A measure against the size of the coefficient, a line for each way to steer.

    `levels` are horizontal lines with their intervals: the base model, the plain finetune. Rows
    hold `coefficient`, `value`, `low` and `high`.
    """
    figure = kit.blank("|coefficient| (multiples of v)", y_title, height=400)
    span = (0.0, max((r["coefficient"] for _, rows in lines for r in rows), default=1.0))
    styles = zip(levels, (kit.GREY, kit.GOLD), ("dot", "dashdot"), strict=False)
    for (name, level), colour, dash in styles:
        _add_level(figure, name, _estimate(level), span, colour, dash)
    for index, (name, rows) in enumerate(lines):
        _add_line(figure, index, name, rows)
    figure.update_xaxes(range=kit.padded(span))
    return figure


def _add_level(
    figure: go.Figure,
    name: str,
    level: Estimate,
    span: tuple[float, float],
    colour: str,
    dash: str,
) -> None:
    """What a model without a dose reaches, across the whole chart."""
    if level.value is None:
        return
    figure.add_scatter(
        x=kit.padded(span),
        y=[level.value, level.value],
        mode="lines",
        name=name,
        line={"color": colour, "width": 1.75, "dash": dash},
        hovertemplate=f"{name}: {level.value:.2f}<extra></extra>",
    )
    if level.low is not None and level.high is not None:
        figure.add_hrect(
            y0=level.low, y1=level.high, fillcolor=colour, opacity=0.12, line_width=0, layer="below"
        )


def _add_line(figure: go.Figure, index: int, name: str, rows: Sequence[Row]) -> None:
    """A way to steer, by coefficient."""
    known = [row for row in rows if kit.number(row["value"]) is not None]
    known.sort(key=lambda row: row["coefficient"])
    found = [_estimate(row) for row in known]
    figure.add_scatter(
        x=[row["coefficient"] for row in known],
        y=[each.value for each in found],
        error_y=kit.error_bars(found),
        customdata=[f"{name}{kit.interval(each)}" for each in found],
        mode="lines+markers",
        name=name,
        line={
            "color": kit.LINE_COLOURS[index % len(kit.LINE_COLOURS)],
            "width": 2,
            "dash": kit.LINE_DASHES[index % len(kit.LINE_DASHES)],
        },
        marker={"size": 8, "symbol": kit.LINE_SYMBOLS[index % len(kit.LINE_SYMBOLS)]},
        hovertemplate="%{x:g}: %{y:.2f} %{customdata}<extra></extra>",
    )


def _estimate(row: Row) -> Estimate:
    return Estimate(*(kit.number(row[name]) for name in ("value", "low", "high")))
