"""Plotly figures of saved results: plain functions of plain data.

Knows nothing about files, pages or models. Backgrounds are transparent; the page's style sheet
sets the colours of text and grid, so that a figure follows the reader's light or dark theme.
The trace colours (after Okabe and Ito) are mid-tones that stand on both and differ in lightness;
lines also differ in dash or marker, never in colour alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from personavec.wording import plural

Row = Mapping[str, Any]

BLUE = "#2a82c7"
ORANGE = "#d9661f"
GREEN = "#0f9d76"
PURPLE = "#b768a2"
GOLD = "#b58900"
GREY = "#868d96"

LINE_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GOLD, GREY)
LINE_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
LINE_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

COEFFICIENT = "coefficient α (multiples of v)"
LOG_ODDS = "log-odds (nats)"
COHERENCE = "coherence (0–100)"

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def number(value: object) -> float | None:
    """The value as a finite float, or None where it is missing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign written out: +1.5, −1.5, 0."""
    text = f"{abs(value):.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    if text == "0":
        return "0"
    return ("−" if value < 0 else "+") + text


def direction_name(row: Row) -> str:
    """How a random direction of the control is called."""
    direction = number(row.get("direction"))
    return "random direction" if direction is None else f"random direction {direction:g}"


def log_odds_histogram(positive: Iterable[Any], negative: Iterable[Any]) -> go.Figure:
    """Overlaid histograms of rollout log-odds by polarity; 0 is always the edge of a bin."""
    groups = (
        ("positive rollouts", BLUE, "", _finite(positive)),
        ("negative rollouts", ORANGE, "/", _finite(negative)),
    )
    edges = _bin_edges([value for *_, values in groups for value in values])
    width = edges[1] - edges[0]
    figure = _figure(LOG_ODDS, "rollouts", height=320)
    for name, colour, pattern, values in groups:
        counts = [0] * (len(edges) - 1)
        for value in values:
            counts[min(max(int((value - edges[0]) / width), 0), len(counts) - 1)] += 1
        figure.add_bar(
            x=[edge + width / 2 for edge in edges[:-1]],
            y=counts,
            width=width,
            name=name,
            opacity=0.6,
            marker={
                "color": colour,
                "line": {"color": colour, "width": 1},
                "pattern": {"shape": pattern, "size": 5, "solidity": 0.25, "fillmode": "overlay"},
            },
            hovertemplate=f"%{{y}} {name} near %{{x:.2f}} nats<extra></extra>",
        )
    figure.update_layout(barmode="overlay", bargap=0)
    figure.add_vline(x=0, line={"color": GREY, "width": 1.5, "dash": "dot"})
    return figure


def detection_auc(styles: Sequence[tuple[str, Sequence[Row]]]) -> go.Figure:
    """AUC of every method with its interval, best read from top to bottom; one colour a style."""
    names = list(dict.fromkeys(str(row["method"]) for _, rows in styles for row in rows))
    figure = _figure("AUC", "", height=110 + 46 * len(names))
    for index, (style, rows) in enumerate(styles):
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        # Styles stand apart a little, so that intervals can be seen.
        shift = 0.13 * (index - (len(styles) - 1) / 2)
        figure.add_scatter(
            x=[row["value"] for row in rows],
            y=[names.index(str(row["method"])) + shift for row in rows],
            error_x=_error_bars(rows, "value", "low", "high")
            | {"thickness": 1.5, "width": 3, "color": colour},
            customdata=[f"{row['method']}, {style}{_interval(row, 'low', 'high')}" for row in rows],
            mode="markers",
            name=style,
            marker={"size": 9, "symbol": LINE_SYMBOLS[index % len(LINE_SYMBOLS)], "color": colour},
            showlegend=True,
            hovertemplate="%{x:.3f} %{customdata}<extra></extra>",
        )
    figure.add_vline(x=0.5, line={"color": GREY, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=names,
        range=[len(names) - 0.5, -0.5],
        automargin=True,
        showgrid=False,
    )
    figure.update_xaxes(range=[-0.02, 1.02], showgrid=True)
    return figure


def sweep_log_odds(sweep: Sequence[Row], selected: int | None) -> go.Figure:
    """Log-odds by steered layer, one line and interval band per estimator and coefficient."""
    figure = _figure("layer", LOG_ODDS, height=340)
    for index, (name, rows) in enumerate(_sweep_lines(sweep)):
        _add_band(
            figure,
            rows,
            along="layer",
            field="log_odds",
            colour=LINE_COLOURS[index % len(LINE_COLOURS)],
        )
        _add_sweep_line(figure, index, name, rows, "log_odds", " nats")
    _style_layer_axis(figure, sweep, selected)
    return figure


def sweep_coherence(sweep: Sequence[Row], selected: int | None, floor: float | None) -> go.Figure:
    """Coherence by steered layer, a line per estimator and coefficient, and the floor."""
    figure = _figure("layer", COHERENCE, height=340)
    for index, (name, rows) in enumerate(_sweep_lines(sweep)):
        _add_sweep_line(figure, index, name, rows, "coherence", "")
    _add_floor(figure, floor)
    figure.update_yaxes(range=[0, 104])
    _style_layer_axis(figure, sweep, selected)
    return figure


def dose_response(
    doses: Sequence[Row],
    control: Sequence[Row],
    prompted: Mapping[str, Row | None],
    coherent_range: tuple[float, float] | None,
) -> go.Figure:
    """Log-odds against the coefficient, with the levels that other means reach.

    Open markers are doses that were not coherent; random directions of equal norm are points at
    the ends; horizontal lines are the system prompts alone and the unsteered model.
    """
    doses = _measured(doses, "log_odds")
    control = _measured(control, "log_odds")
    span = _coefficient_span(doses, control)
    figure = _figure(COEFFICIENT, LOG_ODDS, height=440)
    _shade(figure, coherent_range)
    levels = (
        ("positive prompt alone", GREEN, "dash", prompted.get("pos")),
        ("negative prompt alone", PURPLE, "dashdot", prompted.get("neg")),
        ("unsteered", GREY, "dot", next((r for r in doses if r["coefficient"] == 0), None)),
    )
    for name, colour, dash, level in levels:
        height = number(level.get("log_odds")) if level else None
        if level is None or height is None:
            continue
        figure.add_scatter(
            x=_padded(span),
            y=[height, height],
            mode="lines",
            name=name,
            line={"color": colour, "width": 1.75, "dash": dash},
            hovertemplate=f"{name}: {signed(height)} nats<extra></extra>",
        )
        low, high = number(level.get("low")), number(level.get("high"))
        if name != "unsteered" and low is not None and high is not None:
            figure.add_hrect(
                y0=low, y1=high, fillcolor=colour, opacity=0.1, line_width=0, layer="below"
            )
    _add_control(figure, control, "log_odds", " nats", span)
    _add_dose_line(figure, doses, "log_odds", "low", "high", " nats")
    figure.update_xaxes(range=_padded(span))
    return figure


def dose_coherence(
    doses: Sequence[Row],
    control: Sequence[Row],
    floor: float | None,
    coherent_range: tuple[float, float] | None,
) -> go.Figure:
    """Coherence against the coefficient, on the axis of `dose_response`."""
    span = _coefficient_span(_measured(doses, "log_odds"), _measured(control, "log_odds"))
    figure = _figure(COEFFICIENT, COHERENCE, height=320)
    _shade(figure, coherent_range)
    _add_control(figure, _measured(control, "coherence"), "coherence", "", span)
    _add_dose_line(
        figure, _measured(doses, "coherence"), "coherence", "coherence_low", "coherence_high", ""
    )
    _add_floor(figure, floor)
    figure.update_xaxes(range=_padded(span))
    figure.update_yaxes(range=[0, 104])
    return figure


def relative_norm(sizes: Sequence[Any], selected: int | None) -> go.Figure:
    """Size of the vector at each layer, as a share of the mean residual norm there."""
    figure = _figure("layer", "relative size, ‖v‖ / mean ‖h‖", height=320)
    rows = [
        {"layer": layer, "size": size}
        for layer, value in enumerate(sizes)
        if (size := number(value)) is not None
    ]
    figure.add_scatter(
        x=[row["layer"] for row in rows],
        y=[row["size"] for row in rows],
        mode="lines+markers",
        line={"color": BLUE, "width": 2},
        marker={"size": 5},
        showlegend=False,
        hovertemplate="layer %{x}: %{y:.3f}<extra></extra>",
    )
    figure.update_yaxes(rangemode="tozero")
    _style_layer_axis(figure, rows, selected)
    return figure


def difference_histogram(histogram: Row, threshold: float | None, unit: str) -> go.Figure:
    """Rows by projection difference, beside the reference set as shares, with the line drawn."""
    edges = [float(edge) for edge in histogram["edges"]]
    figure = _figure(unit, "share of rows", height=320)
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    width = edges[1] - edges[0]
    sides = [("rows", BLUE, "", histogram["counts"])]
    if histogram.get("reference"):
        sides.append(("reference", ORANGE, "/", histogram["reference"]))
    for name, colour, pattern, counts in sides:
        total = max(1, sum(counts))
        figure.add_bar(
            x=middles,
            y=[count / total for count in counts],
            width=width,
            name=name,
            opacity=0.6,
            marker={
                "color": colour,
                "line": {"color": colour, "width": 1},
                "pattern": {"shape": pattern, "size": 5, "solidity": 0.25, "fillmode": "overlay"},
            },
            hovertemplate=f"%{{y:.1%}} of the {name} near %{{x:.2f}}<extra></extra>",
            showlegend=True,
        )
    figure.update_layout(barmode="overlay", bargap=0)
    figure.update_yaxes(tickformat=".0%")
    if threshold is not None:
        figure.add_vline(
            x=threshold,
            line={"color": GREY, "width": 1.5, "dash": "dash"},
            name=f"line at {signed(threshold)}",
            showlegend=True,
        )
    return figure


def group_means(rows: Sequence[Row], unit: str) -> go.Figure:
    """One dot with its interval for each group, highest on top."""
    rows = [row for row in rows if number(row.get("mean")) is not None][::-1]
    figure = _figure(unit, "", height=90 + 26 * len(rows))
    figure.add_scatter(
        x=[row["mean"] for row in rows],
        y=[_shortened(str(row["group"])) for row in rows],
        error_x=_error_bars(rows, "mean", "low", "high")
        | {"thickness": 1.5, "width": 3, "color": BLUE},
        customdata=[
            f"{_interval(row, 'low', 'high')}<br>{plural(row['n'], 'row')}" for row in rows
        ],
        mode="markers",
        marker={"size": 8, "color": BLUE},
        showlegend=False,
        hovertemplate="%{y}: %{x:.3f}%{customdata}<extra></extra>",
    )
    figure.add_vline(x=0, line={"color": GREY, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(type="category", automargin=True)
    figure.update_xaxes(showgrid=True)
    return figure


def group_map(
    groups: Sequence[str], traits: Sequence[str], means: Sequence[Sequence[Any]]
) -> go.Figure:
    """Every group's mean for every trait as a field of colour, with the number in it."""
    known = [abs(value) for row in means for value in row if number(value) is not None]
    reach = max([*known, 1e-6])
    figure = _figure("", "", height=130 + 30 * len(groups))
    figure.add_heatmap(
        z=[list(row) for row in means][::-1],
        x=list(traits),
        y=[_shortened(group) for group in groups][::-1],
        text=[["" if v is None else signed(v) for v in row] for row in means][::-1],
        texttemplate="%{text}",
        colorscale=[(0, _faint(BLUE, 0.85)), (0.5, _faint(GREY, 0.06)), (1, _faint(ORANGE, 0.85))],
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


def _shortened(text: str, limit: int = 28) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def forest(
    rows: Sequence[Row],
    x_title: str,
    *,
    reference: float | None = None,
    span: tuple[float, float] | None = None,
) -> go.Figure:
    """Values with their intervals side by side, one line a label and series.

    Each row has `label`, `series`, `value`, `low` and `high`; labels go from top to bottom in
    the order of the rows, the series of one label next to each other. `reference` is drawn as a
    vertical line (no difference, chance); `span` fixes the axis. Labels stand above their lines,
    not beside them, so that a narrow screen keeps its width for the values.
    """
    labels = list(dict.fromkeys(row["label"] for row in rows))
    series = list(dict.fromkeys(row["series"] for row in rows))
    pitch = len(series) + 1.8
    figure = _figure(x_title, "", height=int(100 + 19 * pitch * len(labels)))
    for index, name in enumerate(series):
        known = [r for r in rows if r["series"] == name and number(r.get("value")) is not None]
        figure.add_scatter(
            x=[row["value"] for row in known],
            y=[labels.index(row["label"]) * pitch + index + 1.1 for row in known],
            error_x=_error_bars(known, "value", "low", "high") | {"thickness": 1.75, "width": 4},
            customdata=[row["label"] + _interval(row, "low", "high") for row in known],
            mode="markers",
            name=name,
            marker={
                "size": 9,
                "symbol": LINE_SYMBOLS[index % len(LINE_SYMBOLS)],
                "color": LINE_COLOURS[index % len(LINE_COLOURS)],
            },
            showlegend=len(series) > 1,
            hovertemplate=f"%{{x:.2f}} %{{customdata}}<extra>{name}</extra>",
        )
    for place, label in enumerate(labels):
        figure.add_annotation(
            x=0,
            xref="paper",
            xanchor="left",
            y=place * pitch + 0.15,
            text=label,
            showarrow=False,
            font={"size": 13},
        )
    if reference is not None:
        figure.add_vline(x=reference, line={"color": GREY, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(
        range=[pitch * len(labels) - 0.4, -0.6], showgrid=False, showticklabels=False, title=None
    )
    figure.update_xaxes(showgrid=True, range=span)
    figure.update_layout(margin={"l": 14, "r": 14, "t": 34, "b": 52})
    return figure


def turn_lines(lines: Sequence[tuple[str, Sequence[Row]]]) -> go.Figure:
    """Mean readings by assistant turn, one line a kind of reading, with interval bands."""
    figure = _figure("assistant turn", "σ of neutral prompts", height=320)
    for index, (name, rows) in enumerate(lines):
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        _add_band(figure, rows, along="turn", field="value", colour=colour)
        known = [row for row in rows if number(row.get("value")) is not None]
        figure.add_scatter(
            x=[row["turn"] for row in known],
            y=[row["value"] for row in known],
            customdata=[
                f"{_interval(row, 'low', 'high')}<br>{plural(row['n'], 'turn')}" for row in known
            ],
            mode="lines+markers",
            name=name,
            line={"color": colour, "width": 2, "dash": LINE_DASHES[index % len(LINE_DASHES)]},
            marker={"size": 7, "symbol": LINE_SYMBOLS[index % len(LINE_SYMBOLS)]},
            hovertemplate=f"turn %{{x}}, {name}: %{{y:.2f}}%{{customdata}}<extra></extra>",
        )
    figure.add_hline(y=0, line={"color": GREY, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(showgrid=True)
    return figure


def server_chart(points: Sequence[Row], limit: float) -> go.Figure:
    """A control chart's level over all replies, with its limit where the scale reaches it."""
    figure = _figure("reply", "level of the chart", height=260)
    figure.add_scatter(
        x=[row["reply"] + 1 for row in points],
        y=[row["level"] for row in points],
        mode="lines",
        line={"color": BLUE, "width": 1.5},
        showlegend=False,
        hovertemplate="reply %{x}: %{y:.2f}<extra></extra>",
    )
    figure.add_hline(
        y=limit,
        line={"color": ORANGE, "width": 1.5, "dash": "dash"},
        name=f"limit, {limit:.2f}",
        showlegend=True,
    )
    figure.update_yaxes(showgrid=True)
    return figure


def arms_by_dose(
    lines: Sequence[tuple[str, Sequence[Row]]],
    levels: Sequence[tuple[str, Row]],
    y_title: str,
) -> go.Figure:
    """A measure against the size of the coefficient, a line for each way to steer.

    `levels` are horizontal lines with their intervals: the base model, the plain finetune. Rows
    hold `coefficient`, `value`, `low` and `high`.
    """
    figure = _figure("|coefficient| (multiples of v)", y_title, height=400)
    span = (0.0, max((r["coefficient"] for _, rows in lines for r in rows), default=1.0))
    for (name, level), colour, dash in zip(levels, (GREY, GOLD), ("dot", "dashdot"), strict=False):
        height, low, high = (number(level.get(key)) for key in ("value", "low", "high"))
        if height is None:
            continue
        figure.add_scatter(
            x=_padded(span),
            y=[height, height],
            mode="lines",
            name=name,
            line={"color": colour, "width": 1.75, "dash": dash},
            hovertemplate=f"{name}: {height:.2f}<extra></extra>",
        )
        if low is not None and high is not None:
            figure.add_hrect(
                y0=low, y1=high, fillcolor=colour, opacity=0.12, line_width=0, layer="below"
            )
    for index, (name, rows) in enumerate(lines):
        rows = _measured(rows, "value")
        figure.add_scatter(
            x=[row["coefficient"] for row in rows],
            y=[row["value"] for row in rows],
            error_y=_error_bars(rows, "value", "low", "high"),
            customdata=[f"{name}{_interval(row, 'low', 'high')}" for row in rows],
            mode="lines+markers",
            name=name,
            line={
                "color": LINE_COLOURS[index % len(LINE_COLOURS)],
                "width": 2,
                "dash": LINE_DASHES[index % len(LINE_DASHES)],
            },
            marker={"size": 8, "symbol": LINE_SYMBOLS[index % len(LINE_SYMBOLS)]},
            hovertemplate="%{x:g}: %{y:.2f} %{customdata}<extra></extra>",
        )
    figure.update_xaxes(range=_padded(span))
    return figure


def _figure(x_title: str, y_title: str, height: int) -> go.Figure:
    """An empty figure in the house style: no frame, no zoom, legend above."""
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
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "bgcolor": "rgba(0,0,0,0)",
                "itemclick": False,
                "itemdoubleclick": False,
            },
            "xaxis": {**axis, "title": {"text": x_title, "standoff": 8}, "showgrid": False},
            "yaxis": {**axis, "title": {"text": y_title, "standoff": 8}},
        }
    )


def _finite(values: Iterable[Any]) -> list[float]:
    return [kept for value in values if (kept := number(value)) is not None]


def _measured(rows: Sequence[Row], field: str) -> list[Row]:
    """The rows that hold both a coefficient and the field, in order of coefficient."""
    kept = [
        row
        for row in rows
        if number(row.get("coefficient")) is not None and number(row.get(field)) is not None
    ]
    return sorted(kept, key=lambda row: row["coefficient"])


def _bin_edges(values: Sequence[float], bins: int = 40) -> list[float]:
    """Edges of about `bins` bins of a round width, multiples of that width."""
    low, high = min([0.0, *values]), max([0.0, *values])
    raw = max(high - low, 1e-6) / bins
    power = 10.0 ** math.floor(math.log10(raw))
    width = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)
    first, last = math.floor(low / width), math.floor(high / width) + 1
    return [index * width for index in range(first, last + 1)]


def _sweep_lines(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by estimator and coefficient, each group named and in order of layer."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        coefficient = number(row.get("coefficient"))
        if coefficient is not None and number(row.get("layer")) is not None:
            key = str(row.get("estimator") or "mean"), coefficient
            groups.setdefault(key, []).append(row)
    several = len({estimator for estimator, _ in groups}) > 1
    return [
        (
            f"{key[0]}, α = {signed(key[1])}" if several else f"α = {signed(key[1])}",
            sorted(groups[key], key=lambda row: row["layer"]),
        )
        for key in sorted(groups)
    ]


def _add_band(
    figure: go.Figure,
    rows: Sequence[Row],
    *,
    along: str,
    field: str,
    colour: str,
    low: str = "low",
    high: str = "high",
) -> None:
    """The interval of a line as a faint band; rows without an interval leave it out."""
    known = [
        row for row in rows if all(number(row.get(name)) is not None for name in (field, low, high))
    ]
    if not known:
        return
    figure.add_scatter(
        x=[row[along] for row in known] + [row[along] for row in reversed(known)],
        y=[row[high] for row in known] + [row[low] for row in reversed(known)],
        mode="lines",
        fill="toself",
        fillcolor=_faint(colour, 0.16),
        line={"width": 0},
        showlegend=False,
        hoverinfo="skip",
    )


def _add_sweep_line(
    figure: go.Figure,
    index: int,
    name: str,
    rows: Sequence[Row],
    field: str,
    unit: str,
) -> None:
    rows = [row for row in rows if number(row.get(field)) is not None]
    style = index % len(LINE_COLOURS)
    figure.add_scatter(
        x=[row["layer"] for row in rows],
        y=[row[field] for row in rows],
        customdata=[_interval(row, "low", "high") if field == "log_odds" else "" for row in rows],
        mode="lines+markers",
        name=name,
        line={"color": LINE_COLOURS[style], "width": 2, "dash": LINE_DASHES[style]},
        marker={"size": 7, "symbol": LINE_SYMBOLS[style]},
        showlegend=True,
        hovertemplate=(f"layer %{{x}}, {name}<br>%{{y:.2f}}{unit}%{{customdata}}<extra></extra>"),
    )


def _add_dose_line(
    figure: go.Figure, doses: Sequence[Row], field: str, low: str, high: str, unit: str
) -> None:
    """The persona vector's curve with its 95% intervals; incoherent doses get open markers."""
    _add_band(figure, doses, along="coefficient", field=field, colour=BLUE, low=low, high=high)
    figure.add_scatter(
        x=[row["coefficient"] for row in doses],
        y=[row[field] for row in doses],
        error_y=_error_bars(doses, field, low, high) | {"thickness": 1.5, "width": 3},
        customdata=[_dose_note(row, low, high) for row in doses],
        mode="lines+markers",
        name="persona vector",
        line={"color": BLUE, "width": 2.25},
        marker={
            "size": 8,
            "symbol": ["circle-open" if r.get("coherent") is False else "circle" for r in doses],
            "color": BLUE,
            "line": {"color": BLUE, "width": 2},
        },
        showlegend=True,
        legendrank=1,
        hovertemplate=f"α = %{{x}}: %{{y:.2f}}{unit}%{{customdata}}<extra>persona vector</extra>",
    )


def _add_control(
    figure: go.Figure,
    control: Sequence[Row],
    field: str,
    unit: str,
    span: tuple[float, float],
) -> None:
    """Random directions as points, set apart a little so that their intervals can be seen."""
    if not control:
        return
    directions = sorted({str(row.get("direction")) for row in control})
    step = 0.011 * (span[1] - span[0])
    middle = (len(directions) - 1) / 2
    bounds = ("low", "high") if field == "log_odds" else ("coherence_low", "coherence_high")
    figure.add_scatter(
        x=[
            row["coefficient"] + step * (directions.index(str(row.get("direction"))) - middle)
            for row in control
        ],
        y=[row[field] for row in control],
        error_y=_error_bars(control, field, *bounds)
        | {"color": ORANGE, "thickness": 1, "width": 0},
        customdata=[f"{direction_name(row)}, α = {signed(row['coefficient'])}" for row in control],
        mode="markers",
        name="random directions",
        marker={"size": 7, "symbol": "x-thin", "line": {"color": ORANGE, "width": 2}},
        showlegend=True,
        hovertemplate=f"%{{customdata}}: %{{y:.2f}}{unit}<extra></extra>",
    )


def _error_bars(rows: Sequence[Row], field: str, low: str, high: str) -> dict[str, Any]:
    """Distances from the value to its bounds; a row without a bound gets no bar there."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [_distance(row.get(high), row[field]) for row in rows],
        "arrayminus": [_distance(row[field], row.get(low)) for row in rows],
    }


def _distance(above: object, below: object) -> float | None:
    top, bottom = number(above), number(below)
    return None if top is None or bottom is None else max(top - bottom, 0.0)


def _dose_note(row: Row, low: str, high: str) -> str:
    """What the reader sees on hovering a dose, beyond its value."""
    parts = [_interval(row, low, high)]
    dose = number(row.get("relative_dose"))
    if dose is not None:
        parts.append(f"<br>relative dose {dose:.2f}")
    if row.get("coherent") is False:
        parts.append("<br>not coherent")
    return "".join(parts)


def _interval(row: Row, low: str, high: str) -> str:
    bounds = number(row.get(low)), number(row.get(high))
    if bounds[0] is None or bounds[1] is None:
        return ""
    return f" [{bounds[0]:.2f}, {bounds[1]:.2f}]".replace("-", "−")


def _add_floor(figure: go.Figure, floor: float | None) -> None:
    if floor is None:
        return
    figure.add_hline(
        y=floor,
        line={"color": GREY, "width": 1.5, "dash": "dot"},
        name=f"coherence floor {floor:g}",
        showlegend=True,
    )


def _shade(figure: go.Figure, coherent_range: tuple[float, float] | None) -> None:
    """The coherent range of coefficients as a faint area, named in the legend."""
    if coherent_range is None:
        return
    figure.add_vrect(
        x0=coherent_range[0],
        x1=coherent_range[1],
        fillcolor=GREY,
        opacity=0.17,
        line_width=0,
        layer="below",
        name="coherent range",
        showlegend=True,
    )


def _style_layer_axis(figure: go.Figure, rows: Sequence[Row], selected: int | None) -> None:
    """Whole layer numbers, and the selected layer marked."""
    layers = [row["layer"] for row in rows if number(row.get("layer")) is not None]
    span = max(layers) - min(layers) if layers else 0
    step = next((step for step in (1, 2, 4, 5, 10, 20) if span / step <= 9), 50)
    figure.update_xaxes(dtick=step, tick0=0, tickformat="d")
    if selected is None:
        return
    figure.add_vline(
        x=selected,
        line={"color": GREY, "width": 1.5, "dash": "dash"},
        name=f"layer {selected}, selected",
        showlegend=True,
    )


def _coefficient_span(*groups: Sequence[Row]) -> tuple[float, float]:
    coefficients = [float(row["coefficient"]) for rows in groups for row in rows]
    if not coefficients:
        return -1.0, 1.0
    low, high = min(coefficients), max(coefficients)
    return (low, high) if low < high else (low - 1, high + 1)


def _padded(span: tuple[float, float]) -> list[float]:
    margin = 0.06 * (span[1] - span[0])
    return [span[0] - margin, span[1] + margin]


def _faint(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[index : index + 2], 16) for index in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
