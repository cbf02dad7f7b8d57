"""What the report on mitigations draws: a measure against the dose of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import plotly.graph_objects as go

from personavec.report import charts as kit
from personavec.results import Estimate

#: A measure by the size of the coefficient.
ByDose: TypeAlias = Sequence[tuple[float, Estimate]]


def arms_by_dose(
    lines: Sequence[tuple[str, ByDose]],
    levels: Sequence[tuple[str, Estimate]],
    y_title: str,
) -> go.Figure:
    """A measure against the size of the coefficient, a line for each way to steer.

    `levels` are horizontal lines with their intervals: the base model, the plain finetune.
    """
    figure = kit.blank("|coefficient| (multiples of v)", y_title, height=400)
    span = (0.0, max((dose for _, found in lines for dose, _ in found), default=1.0))
    styles = zip(levels, (kit.GREY, kit.GOLD), ("dot", "dashdot"), strict=False)
    for (name, level), colour, dash in styles:
        kit.add_level(figure, name, level, span, colour, dash)
    for index, (name, found) in enumerate(lines):
        _add_line(figure, index, name, found)
    figure.update_xaxes(range=kit.padded(span))
    return figure


def _add_line(figure: go.Figure, index: int, name: str, by_dose: ByDose) -> None:
    """A way to steer, by coefficient."""
    known = [(dose, each) for dose, each in by_dose if each.value is not None]
    found = [each for _, each in known]
    figure.add_scatter(
        x=[dose for dose, _ in known],
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
