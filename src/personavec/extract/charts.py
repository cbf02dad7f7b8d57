"""What an extraction's report draws: rollouts, layers, doses and the vector's size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from personavec.report import charts as kit, number, signed
from personavec.report.charts import BLUE, COHERENCE, GREEN, GREY, LOG_ODDS, ORANGE, PURPLE
from personavec.results import Estimate

Row = Mapping[str, Any]

COEFFICIENT = "coefficient α (multiples of v)"


def direction_name(row: Row) -> str:
    """How a random direction of the control is called."""
    direction = number(row.get("direction"))
    return "random direction" if direction is None else f"random direction {direction:g}"


def log_odds_histogram(positive: Iterable[Any], negative: Iterable[Any]) -> go.Figure:
    """Overlaid histograms of rollout log-odds by polarity; 0 is always the edge of a bin."""
    groups = (
        ("positive rollouts", BLUE, _finite(positive)),
        ("negative rollouts", ORANGE, _finite(negative)),
    )
    edges = _bin_edges([value for *_, values in groups for value in values])
    width = edges[1] - edges[0]
    figure = kit.blank(LOG_ODDS, "rollouts", height=320)
    for name, colour, values in groups:
        counts = [0] * (len(edges) - 1)
        for value in values:
            counts[min(max(int((value - edges[0]) / width), 0), len(counts) - 1)] += 1
        hover = f"%{{y}} {name} near %{{x:.2f}} nats<extra></extra>"
        kit.add_histogram(figure, name, colour, edges, counts, hover=hover)
    figure.add_vline(x=0, line={"color": GREY, "width": 1.5, "dash": "dot"})
    return figure


def sweep_log_odds(sweep: Sequence[Row], selected: int | None) -> go.Figure:
    """Log-odds by steered layer, one line and interval band per estimator and coefficient."""
    figure = kit.blank("layer", LOG_ODDS, height=340)
    for index, (name, rows) in enumerate(_sweep_lines(sweep)):
        found = _estimates(rows, "log_odds", "low", "high")
        colour = kit.LINE_COLOURS[index % len(kit.LINE_COLOURS)]
        kit.add_band(figure, [row["layer"] for row in rows], found, colour)
        _add_sweep_line(figure, index, name, rows, "log_odds", " nats")
    _style_layer_axis(figure, sweep, selected)
    return figure


def sweep_coherence(sweep: Sequence[Row], selected: int | None, floor: float | None) -> go.Figure:
    """Coherence by steered layer, a line per estimator and coefficient, and the floor."""
    figure = kit.blank("layer", COHERENCE, height=340)
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
    figure = kit.blank(COEFFICIENT, LOG_ODDS, height=440)
    _shade(figure, coherent_range)
    unsteered = next((row for row in doses if row["coefficient"] == 0), None)
    _add_level(figure, "positive prompt alone", prompted.get("pos"), span, GREEN, "dash")
    _add_level(figure, "negative prompt alone", prompted.get("neg"), span, PURPLE, "dashdot")
    _add_level(figure, "unsteered", unsteered, span, GREY, "dot", band=False)
    _add_control(figure, control, "log_odds", " nats", span)
    _add_dose_line(figure, doses, "log_odds", "low", "high", " nats")
    figure.update_xaxes(range=kit.padded(span))
    return figure


def _add_level(
    figure: go.Figure,
    name: str,
    level: Row | None,
    span: tuple[float, float],
    colour: str,
    dash: str,
    *,
    band: bool = True,
) -> None:
    """What is reached without steering, across the whole chart, with its interval as a band."""
    [found] = _estimates([level or {}], "log_odds", "low", "high")
    if found.value is None:
        return
    figure.add_scatter(
        x=kit.padded(span),
        y=[found.value, found.value],
        mode="lines",
        name=name,
        line={"color": colour, "width": 1.75, "dash": dash},
        hovertemplate=f"{name}: {signed(found.value)} nats<extra></extra>",
    )
    if band and found.low is not None and found.high is not None:
        figure.add_hrect(
            y0=found.low, y1=found.high, fillcolor=colour, opacity=0.1, line_width=0, layer="below"
        )


def dose_coherence(
    doses: Sequence[Row],
    control: Sequence[Row],
    floor: float | None,
    coherent_range: tuple[float, float] | None,
) -> go.Figure:
    """Coherence against the coefficient, on the axis of `dose_response`."""
    span = _coefficient_span(_measured(doses, "log_odds"), _measured(control, "log_odds"))
    figure = kit.blank(COEFFICIENT, COHERENCE, height=320)
    _shade(figure, coherent_range)
    _add_control(figure, _measured(control, "coherence"), "coherence", "", span)
    _add_dose_line(
        figure, _measured(doses, "coherence"), "coherence", "coherence_low", "coherence_high", ""
    )
    _add_floor(figure, floor)
    figure.update_xaxes(range=kit.padded(span))
    figure.update_yaxes(range=[0, 104])
    return figure


def relative_norm(sizes: Sequence[Any], selected: int | None) -> go.Figure:
    """Size of the vector at each layer, as a share of the mean residual norm there."""
    figure = kit.blank("layer", "relative size, ‖v‖ / mean ‖h‖", height=320)
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


def _finite(values: Iterable[Any]) -> list[float]:
    return [kept for value in values if (kept := number(value)) is not None]


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


def _add_sweep_line(
    figure: go.Figure,
    index: int,
    name: str,
    rows: Sequence[Row],
    field: str,
    unit: str,
) -> None:
    rows = [row for row in rows if number(row.get(field)) is not None]
    found = _estimates(rows, field, "low", "high")
    style = index % len(kit.LINE_COLOURS)
    figure.add_scatter(
        x=[row["layer"] for row in rows],
        y=[row[field] for row in rows],
        customdata=[kit.interval(each) if field == "log_odds" else "" for each in found],
        mode="lines+markers",
        name=name,
        line={"color": kit.LINE_COLOURS[style], "width": 2, "dash": kit.LINE_DASHES[style]},
        marker={"size": 7, "symbol": kit.LINE_SYMBOLS[style]},
        showlegend=True,
        hovertemplate=(f"layer %{{x}}, {name}<br>%{{y:.2f}}{unit}%{{customdata}}<extra></extra>"),
    )


def _add_dose_line(
    figure: go.Figure, doses: Sequence[Row], field: str, low: str, high: str, unit: str
) -> None:
    """The persona vector's curve with its 95% intervals; incoherent doses get open markers."""
    found = _estimates(doses, field, low, high)
    kit.add_band(figure, [row["coefficient"] for row in doses], found, BLUE)
    figure.add_scatter(
        x=[row["coefficient"] for row in doses],
        y=[row[field] for row in doses],
        error_y=kit.error_bars(found) | {"thickness": 1.5, "width": 3},
        customdata=[_dose_note(row, each) for row, each in zip(doses, found, strict=True)],
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
        error_y=kit.error_bars(_estimates(control, field, *bounds))
        | {"color": ORANGE, "thickness": 1, "width": 0},
        customdata=[f"{direction_name(row)}, α = {signed(row['coefficient'])}" for row in control],
        mode="markers",
        name="random directions",
        marker={"size": 7, "symbol": "x-thin", "line": {"color": ORANGE, "width": 2}},
        showlegend=True,
        hovertemplate=f"%{{customdata}}: %{{y:.2f}}{unit}<extra></extra>",
    )


def _dose_note(row: Row, found: Estimate) -> str:
    """What the reader sees on hovering a dose, beyond its value."""
    parts = [kit.interval(found)]
    dose = number(row.get("relative_dose"))
    if dose is not None:
        parts.append(f"<br>relative dose {dose:.2f}")
    if row.get("coherent") is False:
        parts.append("<br>not coherent")
    return "".join(parts)


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


def _estimates(rows: Sequence[Row], field: str, low: str, high: str) -> list[Estimate]:
    return [Estimate(*(number(row.get(name)) for name in (field, low, high))) for row in rows]
