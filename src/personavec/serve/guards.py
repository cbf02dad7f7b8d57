"""Guards, such as `--guard 'evil>4sigma: steer -1'`: act on a forecast before the reply begins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from jaxtyping import Float
from torch import Tensor

from personavec.conditions import Condition, parse_condition
from personavec.errors import UsageError
from personavec.model import Action, Steering
from personavec.model.engine import GuardVerdict
from personavec.monitor import Gauge
from personavec.serve.actions import cap_at
from personavec.serve.protocol import ApiError
from personavec.serve.purpose import Purpose
from personavec.vectors import PersonaVector

_ACTION = re.compile(r"\s*(?:steer\s+([-+]?[0-9.]+)|(cap)(?:\s+([0-9.]+))?|(refuse))\s*")
_PERCENTILE = 99.0


class GuardRecord(TypedDict):
    """The record in a reply of a guard that acted."""

    condition: str
    forecast: float
    """The forecast in the condition's unit."""
    did: str
    steered: bool
    """Whether the request's own steering explains that it acted."""
    amount: NotRequired[float]


@dataclass(frozen=True, eq=False)
class Guard:
    """A condition on the forecast, and the action to take when it is met.

    `amount` is the coefficient of `steer` or the percentile of `cap`. `action` is None for
    `refuse`.
    """

    condition: Condition
    does: Literal["steer", "cap", "refuse"]
    amount: float = 0.0
    action: Action | None = None

    def record(self, forecast: float, *, steered: bool) -> GuardRecord:
        """The record for the reply, after the guard has acted."""
        found: GuardRecord = {
            "condition": str(self.condition),
            "forecast": round(forecast, 4),
            "did": self.does,
            "steered": steered,
        }
        if self.does != "refuse":
            found["amount"] = self.amount
        return found


def parse_guard(text: str, vectors: Mapping[str, PersonaVector]) -> Guard:
    """Parse `CONDITION: steer COEFFICIENT`, `CONDITION: cap [PERCENTILE]` or `CONDITION: refuse`.

    The default percentile of a cap is the 99th of neutral replies. Raises UsageError, also for a
    coefficient outside the vector's coherent range and for a percentile that was not measured.
    """
    condition, colon, action = text.partition(":")
    found = _ACTION.fullmatch(action)
    if not colon or found is None:
        raise UsageError(
            f"guard {text!r} is not CONDITION: steer COEFFICIENT, CONDITION: cap or "
            "CONDITION: refuse, such as 'evil>4sigma: steer -1'"
        )
    when = parse_condition(condition, traits=list(vectors), units=("sigma", "norm"))
    vector = vectors[when.trait]
    if when.unit == "norm" and not vector.residual_norm[vector.layer] > 0:
        raise UsageError(f"guard {text!r}: the vector has no residual norm as a unit; use sigma")
    coefficient, capped, percentile, refused = found.groups()
    if refused:
        return Guard(when, "refuse")
    try:
        amount = float(coefficient if coefficient is not None else percentile or _PERCENTILE)
    except ValueError:
        raise UsageError(f"guard {text!r}: {action.strip()!r} has no number") from None
    return _capping(text, when, vector, amount) if capped else _steering(text, when, vector, amount)


def _capping(text: str, when: Condition, vector: PersonaVector, percentile: float) -> Guard:
    if not 50 < percentile < 100:
        raise UsageError(f"guard {text!r}: a percentile is above 50 and below 100")
    try:
        return Guard(when, "cap", percentile, cap_at(vector, percentile).action)
    except (ApiError, UsageError) as error:
        raise UsageError(f"guard {text!r}: {error}") from error


def _steering(text: str, when: Condition, vector: PersonaVector, amount: float) -> Guard:
    low, high = vector.coherent_range or (-1.0, 1.0)
    if not low <= amount <= high:
        raise UsageError(
            f"guard {text!r}: {when.trait} keeps replies coherent from {low:g} to {high:g} only"
        )
    return Guard(when, "steer", amount, Steering(vector.layer, vector.direction(), amount))


class GuardedRow:
    """The guards of one reply. It is called with the forecast; `acted` are the guards that acted.

    `asked` are the actions that the request asked for, and `purpose` what they add to readings.
    """

    def __init__(
        self,
        guards: Sequence[Guard],
        gauge: Gauge,
        vectors: Mapping[str, PersonaVector],
        asked: Sequence[Action],
        purpose: Purpose | None = None,
    ):
        self._guards, self._gauge, self._vectors, self._asked = guards, gauge, vectors, asked
        self._purpose = purpose or Purpose()
        self.acted: list[GuardRecord] = []

    def __call__(self, forecast: Float[Tensor, " direction"]) -> GuardVerdict:
        actions: list[Action] = []
        refused = False
        values = forecast.tolist()
        own = self._purpose.projections
        rest = [v - own.get(t, 0.0) for t, v in zip(self._gauge.traits, values, strict=True)]
        readings = _readings(values, self._gauge, self._vectors)
        without = _readings(rest, self._gauge, self._vectors)
        for guard in self._guards:
            when = guard.condition
            found = readings[when.unit]
            if not when.met(found):
                continue
            steered = self._purpose.explains(when, without[when.unit])
            self.acted.append(guard.record(found[when.trait], steered=steered))
            refused |= guard.does == "refuse"
            if guard.action is not None:
                actions.append(guard.action)
        if refused:
            return "refuse"
        return (*self._asked, *actions) if actions else None


def _readings(
    values: Sequence[float], gauge: Gauge, vectors: Mapping[str, PersonaVector]
) -> dict[str, dict[str, float]]:
    """The forecast by unit and trait."""
    baselines = gauge.prompt_last.tolist()
    sigma, norm = {}, {}
    places = zip(gauge.traits, gauge.directions.layers, values, baselines, strict=True)
    for trait, layer, value, (mean, spread) in places:
        sigma[trait] = (value - mean) / spread
        norm[trait] = value / float(vectors[trait].residual_norm[layer])
    return {"sigma": sigma, "norm": norm}
