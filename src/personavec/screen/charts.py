"""What a screen's report draws: rows by their difference, and groups by their mean."""

from __future__ import annotations

from collections.abc import Sequence

from plotly.graph_objects import Figure

from personavec.report import charts as kit, signed
from personavec.screen.results import GroupMean, ValueHistogram
from personavec.wording import plural


def difference_histogram(histogram: ValueHistogram, threshold: float | None, unit: str) -> Figure:
    """Rows by projection difference, beside the reference set as shares, with the line drawn."""
    figure = kit.blank(unit, "share of rows", height=320)
    sides = [("rows", kit.BLUE, histogram.counts)]
    if histogram.reference:
        sides.append(("reference", kit.ORANGE, histogram.reference))
    for name, colour, counts in sides:
        total = max(1, sum(counts))
        kit.add_histogram(
            figure,
            name,
            colour,
            list(histogram.edges),
            [count / total for count in counts],
            hover=f"%{{y:.1%}} of the {name} near %{{x:.2f}}<extra></extra>",
            showlegend=True,
        )
    figure.update_yaxes(tickformat=".0%")
    if threshold is not None:
        figure.add_vline(
            x=threshold,
            line={"color": kit.GREY, "width": 1.5, "dash": "dash"},
            name=f"line at {signed(threshold)}",
            showlegend=True,
        )
    return figure


def group_means(rows: Sequence[GroupMean], unit: str) -> Figure:
    """One dot with its interval for each group, highest on top."""
    rows = [row for row in rows if row.mean is not None][::-1]
    found = [row.estimate for row in rows]
    figure = kit.blank(unit, "", height=90 + 26 * len(rows))
    figure.add_scatter(
        x=[row.mean for row in rows],
        y=[kit.shortened(row.group) for row in rows],
        error_x=kit.error_bars(found) | {"thickness": 1.5, "width": 3, "color": kit.BLUE},
        customdata=[
            f"{kit.interval(each)}<br>{plural(row.n, 'row')}"
            for row, each in zip(rows, found, strict=True)
        ],
        mode="markers",
        marker={"size": 8, "color": kit.BLUE},
        showlegend=False,
        hovertemplate="%{y}: %{x:.3f}%{customdata}<extra></extra>",
    )
    figure.add_vline(x=0, line={"color": kit.GREY, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(type="category", automargin=True)
    figure.update_xaxes(showgrid=True)
    return figure


def group_map(
    groups: Sequence[str], traits: Sequence[str], means: Sequence[Sequence[float | None]]
) -> Figure:
    """Every group's mean for every trait as a field of colour, with the number in it."""
    known = [abs(value) for row in means for value in row if value is not None]
    reach = max([*known, 1e-6])
    away, none, toward = (
        kit.faint(kit.BLUE, 0.85),
        kit.faint(kit.GREY, 0.06),
        kit.faint(kit.ORANGE, 0.85),
    )
    figure = kit.blank("", "", height=130 + 30 * len(groups))
    figure.add_heatmap(
        z=[list(row) for row in means][::-1],
        x=list(traits),
        y=[kit.shortened(group) for group in groups][::-1],
        text=[["" if v is None else signed(v) for v in row] for row in means][::-1],
        texttemplate="%{text}",
        colorscale=[(0, away), (0.5, none), (1, toward)],
        zmin=-reach,
        zmax=reach,
        showscale=False,
        xgap=2,
        ygap=2,
        hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
    )
    figure.update_yaxes(type="category", automargin=True, showgrid=False)
    figure.update_xaxes(side="top", type="category", tickangle=-35, automargin=True)
    return figure
