"""What the report on screening draws: how well each method finds the planted rows."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from personavec.report import charts as kit
from personavec.results import Estimate


def detection_auc(
    styles: Sequence[tuple[str, Sequence[tuple[str, Estimate]]]],
) -> go.Figure:
    """AUC of every method with its interval, a colour for each style of planted rows.

    A row is a method and its AUC; methods go from top to bottom as they come.
    """
    names = list(dict.fromkeys(method for _, rows in styles for method, _ in rows))
    figure = kit.blank("AUC", "", height=110 + 46 * len(names))
    for index, (style, rows) in enumerate(styles):
        colour = kit.LINE_COLOURS[index % len(kit.LINE_COLOURS)]
        # Styles stand apart a little, so that intervals can be seen.
        shift = 0.13 * (index - (len(styles) - 1) / 2)
        found = [each for _, each in rows]
        figure.add_scatter(
            x=[each.value for each in found],
            y=[names.index(method) + shift for method, _ in rows],
            error_x=kit.error_bars(found) | {"thickness": 1.5, "width": 3, "color": colour},
            customdata=[f"{method}, {style}{kit.interval(each)}" for method, each in rows],
            mode="markers",
            name=style,
            marker={
                "size": 9,
                "symbol": kit.LINE_SYMBOLS[index % len(kit.LINE_SYMBOLS)],
                "color": colour,
            },
            showlegend=True,
            hovertemplate="%{x:.3f} %{customdata}<extra></extra>",
        )
    figure.add_vline(x=0.5, line={"color": kit.GREY, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=names,
        range=[len(names) - 0.5, -0.5],
        automargin=True,
        showgrid=False,
    )
    figure.update_xaxes(range=[-0.02, 1.02], showgrid=True)
    return figure
