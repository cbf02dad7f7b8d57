"""What an extraction's report draws: rollouts, layers, doses and the vector's size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from personavec.extract.results import DoseResponse, MeanLogOdds, RandomDose, SteeredDose
from personavec.report import charts as kit, signed
from personavec.report.charts import BLUE, COHERENCE, GREEN, GREY, LOG_ODDS, ORANGE, PURPLE
from personavec.results import Estimate
from personavec.traits import Polarity

COEFFICIENT = "coefficient α (multiples of v)"


def log_odds_histogram(positive: Sequence[float], negative: Sequence[float]) -> go.Figure:
    """Overlaid histograms of rollout log-odds by polarity; 0 is always the edge of a bin."""
    groups = (("positive rollouts", BLUE, positive), ("negative rollouts", ORANGE, negative))
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


def sweep_log_odds(sweep: Sequence[SteeredDose], selected: int) -> go.Figure:
    """Log-odds by steered layer, one line and interval band per estimator and coefficient."""
    figure = kit.blank("layer", LOG_ODDS, height=340)
    for index, (name, doses) in enumerate(_sweep_lines(sweep)):
        found = [dose.log_odds_estimate for dose in doses]
        colour = kit.LINE_COLOURS[index % len(kit.LINE_COLOURS)]
        kit.add_band(figure, [dose.layer for dose in doses], found, colour)
        _add_sweep_line(figure, index, name, doses, found, " nats")
    _style_layer_axis(figure, [dose.layer for dose in sweep], selected)
    return figure


def sweep_coherence(sweep: Sequence[SteeredDose], selected: int, floor: float) -> go.Figure:
    """Coherence by steered layer, a line per estimator and coefficient, and the floor."""
    figure = kit.blank("layer", COHERENCE, height=340)
    for index, (name, doses) in enumerate(_sweep_lines(sweep)):
        found = [Estimate(dose.coherence) for dose in doses]
        _add_sweep_line(figure, index, name, doses, found, "")
    _add_floor(figure, floor)
    figure.update_yaxes(range=[0, 104])
    _style_layer_axis(figure, [dose.layer for dose in sweep], selected)
    return figure


def dose_response(
    doses: Sequence[DoseResponse],
    control: Sequence[RandomDose],
    prompted: Mapping[Polarity, MeanLogOdds],
    coherent_range: tuple[float, float] | None,
) -> go.Figure:
    """Log-odds against the coefficient, with the levels that other means reach.

    Open markers are doses that were not coherent; random directions of equal norm are points at
    the ends; horizontal lines are the system prompts alone and the unsteered model.
    """
    span = _coefficient_span([*doses, *control])
    figure = kit.blank(COEFFICIENT, LOG_ODDS, height=440)
    _shade(figure, coherent_range)
    levels = {polarity: level.estimate for polarity, level in prompted.items()}
    unsteered = next(
        (dose.log_odds_estimate for dose in doses if dose.coefficient == 0), Estimate()
    )
    drawn = (
        ("positive prompt alone", levels.get("pos", Estimate()), GREEN, "dash"),
        ("negative prompt alone", levels.get("neg", Estimate()), PURPLE, "dashdot"),
        ("unsteered", Estimate(unsteered.value), GREY, "dot"),
    )
    for name, level, colour, dash in drawn:
        kit.add_level(
            figure, name, level, span, colour, dash, lambda value: f"{signed(value)} nats"
        )
    _add_control(figure, control, [dose.log_odds_estimate for dose in control], " nats", span)
    _add_dose_line(figure, doses, [dose.log_odds_estimate for dose in doses], " nats")
    figure.update_xaxes(range=kit.padded(span))
    return figure


def dose_coherence(
    doses: Sequence[DoseResponse],
    control: Sequence[RandomDose],
    floor: float | None,
    coherent_range: tuple[float, float] | None,
) -> go.Figure:
    """Coherence against the coefficient, on the axis of `dose_response`."""
    span = _coefficient_span([*doses, *control])
    figure = kit.blank(COEFFICIENT, COHERENCE, height=320)
    _shade(figure, coherent_range)
    _add_control(figure, control, [dose.coherence_estimate for dose in control], "", span)
    _add_dose_line(figure, doses, [dose.coherence_estimate for dose in doses], "")
    if floor is not None:
        _add_floor(figure, floor)
    figure.update_xaxes(range=kit.padded(span))
    figure.update_yaxes(range=[0, 104])
    return figure


def relative_norm(sizes: Sequence[float | None], selected: int) -> go.Figure:
    """Size of the vector at each layer, as a share of the mean residual norm there."""
    figure = kit.blank("layer", "relative size, ‖v‖ / mean ‖h‖", height=320)
    known = {layer: size for layer, size in enumerate(sizes) if size is not None}
    figure.add_scatter(
        x=list(known),
        y=list(known.values()),
        mode="lines+markers",
        line={"color": BLUE, "width": 2},
        marker={"size": 5},
        showlegend=False,
        hovertemplate="layer %{x}: %{y:.3f}<extra></extra>",
    )
    figure.update_yaxes(rangemode="tozero")
    _style_layer_axis(figure, list(known), selected)
    return figure


def _bin_edges(values: Sequence[float]) -> list[float]:
    """Edges of about 40 bins of a round width, multiples of that width."""
    low, high = min([0.0, *values]), max([0.0, *values])
    raw = max(high - low, 1e-6) / 40
    power = 10.0 ** math.floor(math.log10(raw))
    width = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)
    first, last = math.floor(low / width), math.floor(high / width) + 1
    return [index * width for index in range(first, last + 1)]


def _sweep_lines(sweep: Sequence[SteeredDose]) -> list[tuple[str, list[SteeredDose]]]:
    """Doses by estimator and coefficient, each group named and in order of layer."""
    groups: dict[tuple[str, float], list[SteeredDose]] = {}
    for dose in sweep:
        groups.setdefault((dose.estimator, dose.coefficient), []).append(dose)
    several = len({estimator for estimator, _ in groups}) > 1
    return [
        (
            f"{estimator}, α = {signed(c)}" if several else f"α = {signed(c)}",
            sorted(groups[estimator, c], key=lambda dose: dose.layer),
        )
        for estimator, c in sorted(groups)
    ]


def _add_sweep_line(
    figure: go.Figure,
    index: int,
    name: str,
    doses: Sequence[SteeredDose],
    found: Sequence[Estimate],
    unit: str,
) -> None:
    measured = [pair for pair in zip(doses, found, strict=True) if pair[1].value is not None]
    style = index % len(kit.LINE_COLOURS)
    figure.add_scatter(
        x=[dose.layer for dose, _ in measured],
        y=[each.value for _, each in measured],
        customdata=[kit.interval(each) for _, each in measured],
        mode="lines+markers",
        name=name,
        line={"color": kit.LINE_COLOURS[style], "width": 2, "dash": kit.LINE_DASHES[style]},
        marker={"size": 7, "symbol": kit.LINE_SYMBOLS[style]},
        showlegend=True,
        hovertemplate=(f"layer %{{x}}, {name}<br>%{{y:.2f}}{unit}%{{customdata}}<extra></extra>"),
    )


def _add_dose_line(
    figure: go.Figure, doses: Sequence[DoseResponse], found: Sequence[Estimate], unit: str
) -> None:
    """The persona vector's curve with its 95% intervals; incoherent doses get open markers."""
    pairs = [pair for pair in zip(doses, found, strict=True) if pair[1].value is not None]
    pairs.sort(key=lambda pair: pair[0].coefficient)
    coefficients = [dose.coefficient for dose, _ in pairs]
    estimates = [each for _, each in pairs]
    kit.add_band(figure, coefficients, estimates, BLUE)
    figure.add_scatter(
        x=coefficients,
        y=[each.value for each in estimates],
        error_y=kit.error_bars(estimates) | {"thickness": 1.5, "width": 3},
        customdata=[_dose_note(dose, each) for dose, each in pairs],
        mode="lines+markers",
        name="persona vector",
        line={"color": BLUE, "width": 2.25},
        marker={
            "size": 8,
            "symbol": ["circle" if dose.coherent else "circle-open" for dose, _ in pairs],
            "color": BLUE,
            "line": {"color": BLUE, "width": 2},
        },
        showlegend=True,
        legendrank=1,
        hovertemplate=f"α = %{{x}}: %{{y:.2f}}{unit}%{{customdata}}<extra>persona vector</extra>",
    )


def _add_control(
    figure: go.Figure,
    control: Sequence[RandomDose],
    found: Sequence[Estimate],
    unit: str,
    span: tuple[float, float],
) -> None:
    """Random directions as points, spread a little sideways so that intervals do not overlap."""
    pairs = [pair for pair in zip(control, found, strict=True) if pair[1].value is not None]
    if not pairs:
        return
    pairs.sort(key=lambda pair: pair[0].coefficient)
    directions = sorted({dose.direction for dose, _ in pairs})
    step = 0.011 * (span[1] - span[0])
    middle = (len(directions) - 1) / 2
    figure.add_scatter(
        x=[
            dose.coefficient + step * (directions.index(dose.direction) - middle)
            for dose, _ in pairs
        ],
        y=[each.value for _, each in pairs],
        error_y=kit.error_bars([each for _, each in pairs])
        | {"color": ORANGE, "thickness": 1, "width": 0},
        customdata=[
            f"random direction {dose.direction}, α = {signed(dose.coefficient)}"
            for dose, _ in pairs
        ],
        mode="markers",
        name="random directions",
        marker={"size": 7, "symbol": "x-thin", "line": {"color": ORANGE, "width": 2}},
        showlegend=True,
        hovertemplate=f"%{{customdata}}: %{{y:.2f}}{unit}<extra></extra>",
    )


def _dose_note(dose: DoseResponse, found: Estimate) -> str:
    """What the reader sees on hovering a dose, beyond its value."""
    parts = [kit.interval(found)]
    if dose.relative_dose is not None:
        parts.append(f"<br>relative dose {dose.relative_dose:.2f}")
    if not dose.coherent:
        parts.append("<br>not coherent")
    return "".join(parts)


def _add_floor(figure: go.Figure, floor: float) -> None:
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


def _style_layer_axis(figure: go.Figure, layers: Sequence[int], selected: int) -> None:
    """Whole layer numbers, and the selected layer marked."""
    span = max(layers) - min(layers) if layers else 0
    step = next((step for step in (1, 2, 4, 5, 10, 20) if span / step <= 9), 50)
    figure.update_xaxes(dtick=step, tick0=0, tickformat="d")
    figure.add_vline(
        x=selected,
        line={"color": GREY, "width": 1.5, "dash": "dash"},
        name=f"layer {selected}, selected",
        showlegend=True,
    )


def _coefficient_span(doses: Sequence[SteeredDose]) -> tuple[float, float]:
    """The smallest and the largest coefficient whose log-odds were measured."""
    coefficients = [dose.coefficient for dose in doses if dose.log_odds is not None]
    if not coefficients:
        return -1.0, 1.0
    low, high = min(coefficients), max(coefficients)
    return (low, high) if low < high else (low - 1, high + 1)
