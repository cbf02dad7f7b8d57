"""The figures of a replication for a paper: rows from the stages' results, and how they are drawn.

Each figure belongs to a statement, and its files lie in the folder of the stage that it is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from personavec.report.drawing import (
    AWAY,
    GREY,
    TOWARD,
    Plane,
    curves,
    field_of_colour,
    forest,
    histogram,
)
from personavec.report.plots import DOUBLE, SINGLE, Plot, Row, estimate_cells, file_name
from personavec.studies.replicate.config import StageName
from personavec.studies.replicate.deciding import forecasts
from personavec.studies.replicate.points import scatter
from personavec.studies.replicate.stages.expression import ExpressionResult
from personavec.studies.replicate.stages.extraction import ExtractionResult
from personavec.studies.replicate.stages.mitigation import MitigationArm, MitigationResult
from personavec.studies.replicate.stages.monitoring import MonitoringResult
from personavec.studies.replicate.stages.persistence import PersistenceResult
from personavec.studies.replicate.stages.real import RealResult
from personavec.studies.replicate.stages.rows import RowsResult
from personavec.studies.replicate.stages.windows import WINDOW
from personavec.wording import signed

_LOG_ODDS = "log-odds (nats)"
_CHANGE = "change of expression (nats)"
_SHIFT = "finetuning shift (sigma)"
_DIFFERENCE = "projection difference"
_LEVELS = {"normal": GREY, "mild": "#e69f00", "strong": TOWARD}
_PARTS = {"high": TOWARD, "random": GREY, "low": AWAY}


@dataclass(frozen=True)
class StudyPlot:
    """A figure with its place."""

    statement: int
    stage: StageName
    caption: str
    plot: Plot
    width: float = SINGLE
    """In inches."""


def study_plots(results: Mapping[StageName, Any]) -> list[StudyPlot]:
    """The figures of the stages that have run, in the order of the statements."""
    makers: dict[StageName, Any] = {
        "extraction": extraction,
        "monitoring": monitoring,
        "expression": expression,
        "mitigation": mitigation,
        "rows": rows,
        "real": real,
        "persistence": persistence,
    }
    found = [
        plot for stage, make in makers.items() if stage in results for plot in make(results[stage])
    ]
    if "rows" in results and "expression" in results:
        found += forecast(results["rows"], results["expression"])
    drawable = [own for own in found if any(map(_is_measured, own.plot.rows))]
    return sorted(drawable, key=lambda own: own.statement)


def _is_measured(row: Row) -> bool:
    """Whether there is something to draw; a bin has a count in place of a value."""
    return row.get("value", row.get("rows")) is not None


def extraction(found: ExtractionResult) -> list[StudyPlot]:
    """Dose-response and layer sweep of every trait."""
    plots = []
    for vector in found.vectors:
        doses: list[Row] = [
            {
                "kind": "curve" if dose.direction == "vector" else "control",
                "series": dose.direction,
                "coefficient": dose.coefficient,
                **estimate_cells(dose.log_odds),
                "coherent": dose.coherent,
                "in_range": vector.away <= dose.coefficient <= vector.toward,
            }
            for dose in found.doses
            if dose.trait == vector.trait
        ]
        layers: list[Row] = [
            {
                "kind": "curve",
                "series": f"coefficient {signed(layer.coefficient)}",
                "layer": layer.layer,
                **estimate_cells(layer.log_odds),
                "selected": layer.selected,
            }
            for layer in found.layers
            if layer.trait == vector.trait
        ]
        dose_plane = Plane("coefficient", "value", "coefficient (multiples of v)", _LOG_ODDS)
        layer_plane = Plane("layer", "value", "layer", _LOG_ODDS, whole=True)
        plots += [
            _plot(
                1,
                "extraction",
                f"{vector.trait}: dose-response",
                doses,
                partial(curves, plane=dose_plane),
            ),
            _plot(
                1,
                "extraction",
                f"{vector.trait}: layer sweep",
                layers,
                partial(curves, plane=layer_plane),
            ),
        ]
    return plots


def _plot(
    statement: int, stage: StageName, caption: str, rows: Sequence[Row], draw: Any
) -> StudyPlot:
    name = file_name(f"{statement}", *caption.replace(":", "").lower().split())
    return StudyPlot(statement, stage, caption, Plot(name, rows, draw))


def monitoring(found: MonitoringResult) -> list[StudyPlot]:
    """The mean of every condition, and r."""
    plots = []
    for trait in dict.fromkeys(own.trait for own in found.conditions):
        points: list[Row] = [
            {
                "series": "examples" if "example" in own.condition else "system prompts",
                "label": own.condition,
                "projection": own.projection,
                **estimate_cells(own.expression),
            }
            for own in found.conditions
            if own.trait == trait
        ]
        plane = Plane("projection", "value", "projection of the last prompt token", _LOG_ODDS)
        caption = f"{trait}: projection against expression, by condition"
        plots.append(_plot(2, "monitoring", caption, points, partial(scatter, plane=plane)))
    r: list[Row] = [
        {"label": f"{own.trait}, {own.over}", "series": name, **estimate_cells(value)}
        for own in found.forecasts
        for name, value in (("r", own.overall), ("r within conditions", own.within))
    ]
    draw = partial(forest, x_title="r", reference=0.0, span=(-1.0, 1.0))
    return [*plots, _plot(2, "monitoring", "correlations", r, draw)]


def expression(found: ExpressionResult) -> list[StudyPlot]:
    """The change of every trait after every finetune, and shift against change."""
    tuned = [own for own in found.expressed if own.set is not None]
    first = tuned[0].seed if tuned else None
    cells: list[Row] = [
        {
            "row": own.model.replace("-seed", ", seed "),
            "column": own.trait,
            **estimate_cells(own.change),
        }
        for own in tuned
        # Other seeds of the right answers are the null; those of flawed ones are in the CSV.
        if own.seed == first or own.level == "normal"
    ]
    points: list[Row] = [
        {
            "series": own.trait,
            "label": own.model,
            "shift": own.shift.value,
            **estimate_cells(own.change),
        }
        for own in tuned
        if own.shift.value is not None
    ]
    plane = Plane("shift", "value", _SHIFT, _CHANGE, zero=True)
    changes = _plot(
        3, "expression", "change of expression after finetuning", cells, field_of_colour
    )
    against = _plot(
        4,
        "expression",
        "shift against change of expression",
        points,
        partial(scatter, plane=plane),
    )
    # All traits in one figure need both columns of a paper.
    return [replace(own, width=DOUBLE) for own in (changes, against)]


def mitigation(found: MitigationResult) -> list[StudyPlot]:
    """Expression, capability and held-out loss over coefficients, and every arm."""
    plots = []
    for trait in dict.fromkeys(arm.trait for arm in found.arms):
        own = [arm for arm in found.arms if arm.trait == trait]
        here = [arm for arm in own if arm.where == "selected layer"]
        for what, unit, field in (
            ("expression", _LOG_ODDS, "expression"),
            ("coherence", "coherence (0–100)", "coherence"),
            ("capability", "share of right answers", "capability"),
            ("loss", "held-out loss, of plain's", "loss_ratio"),
        ):
            plane = Plane(
                "coefficient", "value", "|coefficient| (multiples of v)", unit, from_zero=True
            )
            rows = _by_dose(here, field)
            plots.append(
                _plot(5, "mitigation", f"{trait}: {what}", rows, partial(curves, plane=plane))
            )
        arms: list[Row] = [
            {
                "label": f"{arm.arm}, {arm.where}",
                "series": "expression",
                **estimate_cells(arm.expression),
            }
            for arm in own
        ]
        plots.append(
            _plot(5, "mitigation", f"{trait}: arms", arms, partial(forest, x_title=_LOG_ODDS))
        )
    return plots


def _by_dose(arms: Iterable[MitigationArm], field: str) -> list[Row]:
    """A measure of the arms with a coefficient; the base and the plain finetune are levels."""
    rows: list[Row] = []
    for arm in arms:
        level = {"base": "before finetuning", "none": "plain finetuning"}.get(arm.mitigation)
        if level is None and not isinstance(arm.amount, float | int):
            continue
        if level is None and arm.mitigation not in ("preventative", "random", "steering"):
            continue
        rows.append(
            {
                "kind": "curve" if level is None else "level",
                "series": level or arm.mitigation,
                "coefficient": None if level else abs(float(arm.amount or 0)),
                **estimate_cells(getattr(arm, field)),
            }
        )
    return rows


def forecast(found: RowsResult, after: ExpressionResult) -> list[StudyPlot]:
    """Projection difference against change, and r of every reading."""
    changes = {
        (own.set, own.level, own.trait): own.change
        for own in reversed(after.expressed)
        if own.set is not None
    }
    points: list[Row] = [
        {
            "series": own.trait,
            "label": f"{own.set}, {own.level}",
            "difference": own.projection_difference.value,
            **estimate_cells(changes[own.set, own.level, own.trait]),
        }
        for own in found.readings
        if (own.set, own.level, own.trait) in changes
        and own.projection_difference.value is not None
    ]
    r: list[Row] = [
        {"label": trait, "series": name.replace("_", " "), **estimate_cells(value)}
        for trait in dict.fromkeys(own.trait for own in found.readings)
        for name, value in forecasts(found, after, trait).items()
        if not name.startswith("random ")
    ]
    plane = Plane("difference", "value", _DIFFERENCE, _CHANGE, zero=True)
    draw = partial(forest, x_title="r", reference=0.0, span=(-1.0, 1.0))
    return [
        _plot(
            6,
            "expression",
            "projection difference against change",
            points,
            partial(scatter, plane=plane),
        ),
        _plot(6, "expression", "what foretells the change", r, draw),
    ]


def rows(found: RowsResult) -> list[StudyPlot]:
    """Distributions of projection difference, and the AUC of every reading."""
    plots = []
    for trait in dict.fromkeys(own.trait for own in found.bins):
        bins: list[Row] = [
            {
                "kind": "bin",
                "series": own.level,
                "from": own.low_edge,
                "to": own.high_edge,
                "rows": own.rows,
            }
            for own in found.bins
            if own.trait == trait
        ]
        draw = partial(histogram, y="rows", titles=(_DIFFERENCE, "rows"), colours=_LEVELS)
        plots.append(_plot(7, "rows", f"{trait}: rows of its set", bins, draw))
    auc: list[Row] = [
        {"label": own.by.replace("_", " "), "series": own.trait, **estimate_cells(own.auc)}
        for own in found.separations
        if own.level == "strong"
    ]
    draw = partial(forest, x_title="AUC", reference=0.5, span=(0.0, 1.0))
    return [*plots, _plot(7, "rows", "strong rows against right answers", auc, draw)]


def real(found: RealResult) -> list[StudyPlot]:
    """Change of expression after each part."""
    parts: list[Row] = [
        {
            "label": f"{own.trait}, {own.drawn_from}",
            "series": own.part,
            **estimate_cells(own.change),
        }
        for part in _PARTS
        for own in found.parts
        if own.part == part
    ]
    draw = partial(forest, x_title=_CHANGE, reference=0.0, colours=_PARTS)
    return [_plot(8, "real", "after training on real conversations", parts, draw)]


def persistence(found: PersistenceResult) -> list[StudyPlot]:
    """r by lag beside its controls, and how steering fades."""
    plots = []
    for trait in dict.fromkeys(own.trait for own in found.lags):
        lags: list[Row] = [
            {
                "kind": "control" if own.direction.startswith("random") else "curve",
                "series": own.direction,
                "lag": own.lag,
                **estimate_cells(own.within),
            }
            for own in found.lags
            if own.trait == trait
        ]
        faded: list[Row] = [
            {
                "kind": "curve",
                "series": own.steered_by,
                "tokens": own.window * WINDOW,
                **estimate_cells(own.expression),
            }
            for own in found.fading
            if own.trait == trait
        ]
        lag_plane = Plane("lag", "value", "tokens between", "r within conditions", zero=True)
        fade_plane = Plane(
            "tokens", "value", "tokens from the start", "beside unsteered (nats)", zero=True
        )
        plots += [
            _plot(
                9,
                "persistence",
                f"{trait}: past projection and later expression",
                lags,
                partial(curves, plane=lag_plane),
            ),
            _plot(
                9,
                "persistence",
                f"{trait}: after steering stops",
                faded,
                partial(curves, plane=fade_plane),
            ),
        ]
    return plots
