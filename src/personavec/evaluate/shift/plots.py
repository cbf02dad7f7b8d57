"""The figures of a shift for a paper: rows from its results, and how they are drawn."""

from __future__ import annotations

from functools import partial

from personavec.evaluate.shift.results import ShiftFigures, ShiftResults
from personavec.report.drawing import forest
from personavec.report.plots import Plot, Row, estimate_cells
from personavec.results import Estimate
from personavec.rollouts import Expression


def paper_plots(results: ShiftResults) -> list[Plot]:
    """The charts of a shift's report."""
    shift = "shift (σ of neutral prompts)"
    unit, rows = expression_rows(results)
    return [
        Plot("shift", shift_rows(results), partial(forest, x_title=shift, reference=0)),
        Plot("expression", rows, partial(forest, x_title=unit)),
    ]


def shift_rows(results: ShiftResults) -> list[Row]:
    """The shift along each trait in sigma, beside the control's and the largest random one."""
    rows: list[Row] = []
    for trait, of in results.traits.items():
        shifts: list[tuple[str, ShiftFigures | None]] = [("tuned", of)]
        if results.control is not None:
            shifts += [("control", of.control), ("tuned minus control", of.beyond_control)]
        rows += [
            {
                **{"label": trait, "series": series},
                **estimate_cells(found.in_sigma if found else Estimate()),
                "questions": found.questions if found else None,
            }
            for series, found in shifts
        ]
        scale = of.sigma / of.shift if of.shift else None
        largest = None if scale is None else of.random_largest * scale
        random = "random direction, largest"
        rows.append(
            {
                **{"label": trait, "series": random},
                **estimate_cells(Estimate(largest)),
                "questions": of.questions,
            }
        )
    return rows


def expression_rows(results: ShiftResults) -> tuple[str, list[Row]]:
    """How strongly each model shows each trait: the unit, and the rows.

    Trait scores where the judge gives no log-odds.
    """
    score = all(of.expression_base.log_odds is None for of in results.traits.values())
    rows: list[Row] = []
    for trait, of in results.traits.items():
        shown: list[tuple[str, Expression | None]] = [
            ("base", of.expression_base),
            ("tuned", of.expression_tuned),
        ]
        if results.control is not None:
            shown.append(("control", of.expression_control))
        rows += [
            {
                **{"label": trait, "series": series},
                **estimate_cells(
                    found.estimate("mean" if score else "log_odds") if found else Estimate()
                ),
                "questions": found.questions if found else None,
            }
            for series, found in shown
        ]
    return ("trait score (0–100)" if score else "log-odds (nats)"), rows
