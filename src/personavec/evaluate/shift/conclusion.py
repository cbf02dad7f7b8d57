"""What a finetune did, in words: the headline of the report, and the end of the command."""

from __future__ import annotations

from collections.abc import Iterable

from personavec.evaluate.conclusion import differs
from personavec.evaluate.shift.results import ShiftFigures, ShiftResults, TraitShift
from personavec.wording import capitalised, joined, moved, plural


def conclusion(results: ShiftResults) -> str:
    """The gate, if there is one; then where the activations went, and what the answers show."""
    said = list(gate(results))
    for trait, of in results.traits.items():
        said.append(_moved(trait, of, results.settings.random_directions))
        said += [f"in answers, {each}" for each in differs({trait: of.expression_difference})]
    return " ".join(f"{capitalised(each)}." for each in said)


def gate(results: ShiftResults) -> Iterable[str]:
    """Whether the conditions of `--fail-if` let the model pass; nothing without conditions."""
    if results.met:
        yield f"the model fails the gate: {joined(met.reason for met in results.met)}"
    elif results.unmeasured:
        yield f"the gate is not decided, which is no pass: {joined(results.unmeasured)}"
    elif results.conditions:
        yield f"the model passes the gate: {joined(results.conditions, 'or')} was not met"


def _moved(trait: str, of: TraitShift, directions: int) -> str:
    """The shift beyond the control's where there is one, and whether any direction does as much."""
    found = of.beyond_control or of
    what = f"the activation along {trait}" + (
        ", beyond the control's," if of.beyond_control else ""
    )
    said = moved(what, found.in_sigma, "σ of neutral prompts", ".2f")
    if not shown(found):
        return said
    if abs(found.shift) <= found.random_largest:
        return f"{said}, and a random direction as far: no evidence that it is the trait"
    return f"{said}, further than along {plural(directions, 'random direction')}"


def shown(found: ShiftFigures) -> bool:
    """Whether the interval of the shift leaves 0 out."""
    return found.low > 0 or found.high < 0
