"""What a shift's report draws: how far each trait moved, and what answers show of it."""

from __future__ import annotations

from collections.abc import Mapping

from personavec.evaluate.shift.results import TraitShift
from personavec.report import charts as kit
from personavec.report.charts import Bar, Chart
from personavec.results import Estimate


def shifts(traits: Mapping[str, TraitShift]) -> Chart:
    """Every trait's shift in sigma, its control's, and the range of random directions."""
    bars: list[Bar] = []
    for name, of in traits.items():
        bars.append(Bar(name, "finetune", of.in_sigma))
        if of.control:
            bars.append(Bar(name, "control", of.control.in_sigma))
        scale = of.sigma / of.shift if of.shift else 0.0
        reach = of.random_largest * scale
        bars.append(Bar(name, "random directions", Estimate(0.0, -reach, reach)))
    return kit.forest(bars, "shift (σ of neutral prompts)", reference=0)


def expression(traits: Mapping[str, TraitShift]) -> Chart:
    """How strongly every model's answers show each trait, in scores without log-odds."""
    scores = any(of.expression_base.log_odds is None for of in traits.values())
    bars = [
        Bar(name, whose, found.estimate("mean" if scores else "log_odds"))
        for name, of in traits.items()
        for whose, found in (
            ("base", of.expression_base),
            ("finetune", of.expression_tuned),
            ("control", of.expression_control),
        )
        if found is not None
    ]
    return kit.forest(bars, "trait score (0–100)" if scores else kit.LOG_ODDS)
