"""The figures of compared mitigations for a paper: rows from results, and how they are drawn."""

from __future__ import annotations

from functools import partial

from personavec.report.drawing import GOLD, GREY, Plane, curves, forest
from personavec.report.plots import Plot, Row, estimate_cells
from personavec.studies.compare_mitigations.report import LINES, Reading, dose, expression
from personavec.studies.compare_mitigations.results import CompareResults

_LEVELS = {"base": "before finetuning", "none": "plain finetuning"}
_COLOURS = dict(zip(_LEVELS.values(), (GREY, GOLD), strict=True))


def paper_plots(results: CompareResults) -> list[Plot]:
    """The charts of the report: each measure against the size of the coefficient."""
    score = results.arms["base"].expression.log_odds is None
    unit = "trait score (0–100)" if score else "log-odds (nats)"
    measures: list[tuple[str, str, Reading]] = [
        ("expression", unit, expression),
        ("expression-under-cues", unit, lambda arm: expression(arm, under_cues=True)),
        ("capability", "share of right answers", lambda arm: arm.capability),
        ("held-out-loss", "held-out loss (nats a token)", lambda arm: arm.held_out_loss),
        ("perplexity", "perplexity", lambda arm: arm.perplexity),
        ("coherence", "coherence (0–100)", lambda arm: arm.expression.estimate("coherence")),
    ]
    return [
        *(
            Plot(name, dose_rows(results, reading), partial(curves, plane=_plane(y_title)))
            for name, y_title, reading in measures
            if reading(results.arms["base"]).value is not None
        ),
        Plot("arms", arm_rows(results), partial(forest, x_title=unit)),
    ]


def arm_rows(results: CompareResults) -> list[Row]:
    """Trait expression of every arm, whatever its mitigation."""
    return [
        {**{"label": name, "series": "expression"}, **estimate_cells(expression(arm))}
        for name, arm in results.arms.items()
    ]


def dose_rows(results: CompareResults, reading: Reading) -> list[Row]:
    """A measure of every arm: by its coefficient's size, or along the whole axis without one.

    Arms that are neither steered nor a baseline are points at no coefficient, which the CSV alone
    has.
    """
    rows: list[Row] = []
    for name, arm in results.arms.items():
        used = dose(arm)
        kind = "level" if name in _LEVELS else "other" if used is None else "curve"
        rows.append(
            {
                **{"kind": kind, "arm": name},
                "series": _LEVELS.get(name) or LINES.get(arm.mitigation, arm.mitigation),
                "coefficient": used,
                **estimate_cells(reading(arm)),
            }
        )
    return rows


def _plane(y_title: str) -> Plane:
    x_title = "|coefficient| (multiples of v)"
    return Plane(
        "coefficient", "value", x_title, y_title, colours=_COLOURS, height=2.2, from_zero=True
    )
