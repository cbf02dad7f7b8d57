"""Conditions on a shift: `--fail-if` makes it a gate for a release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from personavec.conditions import Condition, Unit, parse_condition
from personavec.errors import UsageError
from personavec.evaluate.shift.results import ConditionMet, TraitShift
from personavec.judges import contrast
from personavec.results import Estimate
from personavec.wording import decimal, plural

#: What is read in each unit.
_READ: dict[Unit, str] = {
    "sigma": "the shift",
    "norm": "the shift",
    "log_odds": "expression after finetuning",
    "score": "expression after finetuning",
}


def units(judge: str) -> tuple[Unit, ...]:
    """The units that a condition may have under the judge of this name."""
    shown: tuple[Unit, ...] = ("log_odds", "score") if judge == contrast.NAME else ("score",)
    return ("sigma", "norm", *shown)


def parse_conditions(
    texts: Sequence[str], traits: Sequence[str], judge: str
) -> tuple[Condition, ...]:
    """The conditions of `--fail-if`, each on one of the traits. Raises UsageError."""
    return tuple(parse_condition(text, traits=traits, units=units(judge)) for text in texts)


def check_conditions(conditions: Sequence[Condition], traits: Sequence[str], judge: str) -> None:
    """Raises UsageError for a condition on another trait, or in a unit that is not measured."""
    for condition in conditions:
        if condition.trait not in traits:
            raise UsageError(f"condition {condition}: the traits are {', '.join(traits)}")
        if condition.unit not in units(judge):
            raise UsageError(
                f"condition {condition}: under the judge '{judge}' the unit must be one of "
                f"{', '.join(units(judge))}"
            )


def reading(found: TraitShift, unit: Unit) -> Estimate:
    """A trait's reading in a condition's unit.

    `sigma` and `norm` read the shift, beyond the control's where there is one. `log_odds` and
    `score` read the tuned model's expression.
    """
    moved = found.beyond_control or found
    match unit:
        case "sigma":
            return moved.in_sigma
        case "norm":
            return moved.in_norm
        case "score":
            return found.expression_tuned.estimate("mean")
    return found.expression_tuned.estimate("log_odds")


def condition_met(condition: Condition, traits: Mapping[str, TraitShift]) -> ConditionMet | None:
    """The condition with its reading and a readable reason, if it is met."""
    found = traits[condition.trait]
    read = reading(found, condition.unit)
    if read.value is None or read.low is None or read.high is None:
        return None
    if not condition.met({condition.trait: read.value}):
        return None
    what = _READ[condition.unit]
    if found.beyond_control and condition.unit in ("sigma", "norm"):
        what += " beyond the control's"
    bound = f"{'above' if condition.side == '>' else 'below'} {decimal(condition.threshold, 'g')}"
    return ConditionMet(
        condition=str(condition),
        value=read.value,
        low=read.low,
        high=read.high,
        reason=f"{condition.trait}: {what} is {decimal(read.value)} {condition.unit} "
        f"({decimal(read.low)} to {decimal(read.high)}), {bound}",
    )


def unmeasured(condition: Condition, traits: Mapping[str, TraitShift]) -> str | None:
    """Why the condition could not be measured, if so."""
    found = traits[condition.trait]
    value = reading(found, condition.unit).value
    if value is not None and condition.measured({condition.trait: value}):
        return None
    shown = found.expression_tuned
    states = ", ".join(f"{n} {state}" for state, n in shown.states.items())
    return (
        f"{condition} could not be measured: of {plural(shown.of, 'answer')} after finetuning "
        f"{shown.n} were scored ({states}), and an estimate needs those of two questions"
    )
