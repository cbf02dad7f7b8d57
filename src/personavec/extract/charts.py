"""What an extraction's report draws: rollouts, layers, doses and the vector's size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from personavec.extract.results import DoseResponse, MeanLogOdds, RandomDose, SteeredDose
from personavec.report import charts as kit
from personavec.report.charts import (
    AWAY,
    COHERENCE,
    GREY,
    LOG_ODDS,
    PURPLE,
    TOWARD,
    Area,
    Axis,
    Chart,
    Mark,
    Rule,
    Series,
    Style,
)
from personavec.results import Estimate
from personavec.traits import Polarity
from personavec.wording import decimal, signed

COEFFICIENT = "coefficient α (multiples of v)"
#: The looks of the vector, of random directions, and of levels that are reached without steering.
_VECTOR, _RANDOM = Style(PURPLE), Style(GREY, symbol="cross")


def log_odds_histogram(positive: Sequence[float], negative: Sequence[float]) -> Chart:
    """Overlaid histograms of rollout log-odds by polarity; 0 is always the edge of a bin."""
    groups = (("positive rollouts", TOWARD, positive), ("negative rollouts", AWAY, negative))
    edges = _bin_edges([value for *_, values in groups for value in values])
    width = edges[1] - edges[0]
    marks: list[Mark] = [Rule(at=0, upright=True)]
    for index, (name, colour, values) in enumerate(groups):
        counts = [0] * (len(edges) - 1)
        for value in values:
            counts[min(max(int((value - edges[0]) / width), 0), len(counts) - 1)] += 1

        def said(count: float, middle: float, name: str = name) -> str:
            return f"{count:.0f} {name} near {signed(middle)} nats"

        marks.append(kit.histogram(name, colour, edges, counts, said, filled=index == 0))
    return Chart(
        x=Axis(title=LOG_ODDS),
        y=Axis(title="rollouts", zero=True, whole=True),
        height=300,
        marks=tuple(marks),
    )


def sweep_log_odds(sweep: Sequence[SteeredDose], selected: int) -> Chart:
    """Log-odds by steered layer, one line and interval band per estimator and coefficient."""
    lines = [
        _sweep_line(index, name, doses, [dose.log_odds_estimate for dose in doses], " nats")
        for index, (name, doses) in enumerate(_sweep_lines(sweep))
    ]
    return _by_layer(Axis(title=LOG_ODDS), [*lines, _selected(selected)], height=320)


def sweep_coherence(sweep: Sequence[SteeredDose], selected: int, floor: float) -> Chart:
    """Coherence by steered layer, a line per estimator and coefficient, and the floor."""
    lines = [
        _sweep_line(index, name, doses, [Estimate(dose.coherence) for dose in doses], "")
        for index, (name, doses) in enumerate(_sweep_lines(sweep))
    ]
    axis = Axis(title=COHERENCE, span=(0, 104))
    return _by_layer(axis, [*lines, _selected(selected), _floor(floor)], height=320)


def dose_response(
    doses: Sequence[DoseResponse],
    control: Sequence[RandomDose],
    prompted: Mapping[Polarity, MeanLogOdds],
    coherent_range: tuple[float, float] | None,
) -> Chart:
    """Log-odds against the coefficient, with the levels that other means reach.

    Open markers are doses that were not coherent; random directions of equal norm are points at
    the ends; horizontal lines are the system prompts alone and the unsteered model.
    """
    span = _coefficient_span([*doses, *control])
    levels = {polarity: found.estimate for polarity, found in prompted.items()}
    unsteered = next(
        (dose.log_odds_estimate for dose in doses if dose.coefficient == 0), Estimate()
    )
    marks = [
        *_dose_line(doses, [dose.log_odds_estimate for dose in doses], " nats"),
        *_control(control, [dose.log_odds_estimate for dose in control], " nats", span),
        *kit.level("positive prompt alone", levels.get("pos", Estimate()), TOWARD, "7 4"),
        *kit.level("negative prompt alone", levels.get("neg", Estimate()), AWAY, "8 3 2 3"),
        *kit.level("unsteered", Estimate(unsteered.value), GREY, "2 3"),
        *_shaded(coherent_range),
    ]
    axis = Axis(title=COEFFICIENT, span=kit.padded(span))
    return Chart(x=axis, y=Axis(title=LOG_ODDS), height=400, marks=tuple(marks))


def dose_coherence(
    doses: Sequence[DoseResponse],
    control: Sequence[RandomDose],
    floor: float | None,
    coherent_range: tuple[float, float] | None,
) -> Chart:
    """Coherence against the coefficient, on the axis of `dose_response`."""
    span = _coefficient_span([*doses, *control])
    marks = [
        *_dose_line(doses, [dose.coherence_estimate for dose in doses], ""),
        *_control(control, [dose.coherence_estimate for dose in control], "", span),
        *([] if floor is None else [_floor(floor)]),
        *_shaded(coherent_range),
    ]
    return Chart(
        x=Axis(title=COEFFICIENT, span=kit.padded(span)),
        y=Axis(title=COHERENCE, span=(0, 104)),
        height=300,
        marks=tuple(marks),
    )


def relative_norm(sizes: Sequence[float | None], selected: int) -> Chart:
    """Size of the vector at each layer, as a share of the mean residual norm there."""
    known = [(layer, size) for layer, size in enumerate(sizes) if size is not None]
    points = tuple(
        kit.Point(x=layer, y=size, said=f"layer {layer}: {size:.3f}") for layer, size in known
    )
    line = Series(name="size", points=points, style=_VECTOR, listed=False)
    axis = Axis(title="relative size, ‖v‖ / mean ‖h‖", zero=True)
    return _by_layer(axis, [line, _selected(selected)], height=300)


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


def _sweep_line(
    index: int, name: str, doses: Sequence[SteeredDose], found: Sequence[Estimate], unit: str
) -> Series:
    """A line of the sweep, in the colour of the side that its coefficient steers to."""
    look = kit.style(index)
    return Series(
        name=name,
        points=kit.points(
            [dose.layer for dose in doses],
            found,
            lambda i: f"{unit} at layer {doses[i].layer}, {name}",
        ),
        style=Style(kit.side(doses[0].coefficient), look.dash, look.symbol),
        band=True,
    )


def _dose_line(doses: Sequence[DoseResponse], found: Sequence[Estimate], unit: str) -> list[Mark]:
    """The persona vector's curve with its 95% intervals; incoherent doses get open markers."""
    pairs = [pair for pair in zip(doses, found, strict=True) if pair[1].value is not None]
    pairs.sort(key=lambda pair: pair[0].coefficient)
    points = tuple(
        kit.Point(
            x=dose.coefficient,
            y=each.value or 0.0,
            low=kit.number(each.low),
            high=kit.number(each.high),
            said=_dose_note(dose, each, unit),
            hollow=not dose.coherent,
        )
        for dose, each in pairs
    )
    vector = Series(name="persona vector", points=points, style=_VECTOR, band=True, whiskers=True)
    return [vector] if points else []


def _control(
    control: Sequence[RandomDose],
    found: Sequence[Estimate],
    unit: str,
    span: tuple[float, float],
) -> list[Mark]:
    """Random directions as points, spread a little sideways so that intervals do not overlap."""
    pairs = [pair for pair in zip(control, found, strict=True) if pair[1].value is not None]
    directions = sorted({dose.direction for dose, _ in pairs})
    step, middle = 0.011 * (span[1] - span[0]), (len(directions) - 1) / 2
    points = tuple(
        kit.Point(
            x=dose.coefficient + step * (directions.index(dose.direction) - middle),
            y=each.value or 0.0,
            low=kit.number(each.low),
            high=kit.number(each.high),
            said=f"random direction {dose.direction}, α = {signed(dose.coefficient)}: "
            f"{signed(each.value or 0.0)}{unit}{kit.interval(each)}",
        )
        for dose, each in pairs
    )
    others = Series(
        name="random directions", points=points, style=_RANDOM, joined=False, whiskers=True
    )
    return [others] if points else []


def _dose_note(dose: DoseResponse, found: Estimate, unit: str) -> str:
    """What the reader sees on pointing at a dose."""
    value = decimal(found.value or 0.0)
    parts = [f"α = {signed(dose.coefficient)}: {value}{unit}{kit.interval(found)}"]
    if dose.relative_dose is not None:
        parts.append(f"relative dose {dose.relative_dose:.2f}")
    if not dose.coherent:
        parts.append("not coherent")
    return ", ".join(parts)


def _floor(floor: float) -> Rule:
    return Rule(at=floor, name=f"coherence floor {floor:g}")


def _shaded(coherent_range: tuple[float, float] | None) -> list[Mark]:
    """The coherent range of coefficients as a faint area, named in the legend."""
    if coherent_range is None:
        return []
    low, high = coherent_range
    return [Area(low=low, high=high, upright=True, name="coherent range")]


def _selected(layer: int) -> Rule:
    return Rule(at=layer, upright=True, name=f"layer {layer}, selected", style=Style(GREY, "7 4"))


def _by_layer(axis: Axis, marks: Sequence[Mark], height: int) -> Chart:
    """A chart whose x is the layer, in whole numbers."""
    return Chart(x=Axis(title="layer", whole=True), y=axis, height=height, marks=tuple(marks))


def _coefficient_span(doses: Sequence[SteeredDose]) -> tuple[float, float]:
    """The smallest and the largest coefficient whose log-odds were measured."""
    coefficients = [dose.coefficient for dose in doses if dose.log_odds is not None]
    if not coefficients:
        return -1.0, 1.0
    low, high = min(coefficients), max(coefficients)
    return (low, high) if low < high else (low - 1, high + 1)
