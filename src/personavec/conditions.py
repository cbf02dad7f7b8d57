"""Conditions on a trait's reading, `TRAIT>NUMBER[UNIT]`: --fail-if, --stop-if, --guard, --cut."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from personavec.errors import UsageError

Unit = Literal["sigma", "log_odds", "score", "norm", "projection"]
UNITS: tuple[Unit, ...] = get_args(Unit)

_CONDITION = re.compile(
    r"\s*([^\s<>](?:[^<>]*[^\s<>])?)\s*([<>])\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*([a-z_]*)\s*"
)


@dataclass(frozen=True)
class Condition:
    """A trait's reading above (`>`) or below (`<`) a threshold.

    Units: `sigma`, the standardised projection; `log_odds`, in nats; `score`, 0 to 100; `norm`,
    a projection in mean residual norms of its layer; `projection`, as it is.
    """

    trait: str
    side: Literal[">", "<"]
    threshold: float
    unit: Unit = "sigma"

    def met(self, readings: Mapping[str, float]) -> bool:
        """Whether the trait's reading, in the condition's unit, is beyond the threshold.

        A trait without a reading, or NaN as one, does not meet a condition: ask `measured` first
        wherever that would let something pass.
        """
        value = readings.get(self.trait, math.nan)
        return value > self.threshold if self.side == ">" else value < self.threshold

    def measured(self, readings: Mapping[str, float]) -> bool:
        """Whether the trait has a reading that is a number."""
        return math.isfinite(readings.get(self.trait, math.nan))

    def __str__(self) -> str:
        return f"{self.trait}{self.side}{self.threshold:g}{self.unit}"


def parse_condition(
    text: str, *, traits: Collection[str] | None = None, units: Collection[Unit] = UNITS
) -> Condition:
    """The condition that `text` spells.

    `traits` and `units` are those that have a reading where the condition is used; None takes any
    trait. Raises UsageError that names what is wrong: the grammar, an unknown trait or another
    unit.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise UsageError(f"condition {text!r} is not TRAIT>NUMBER[UNIT], as in evil>3sigma")
    trait, side, number, unit = found.groups()
    try:
        threshold = float(number)
    except ValueError:
        raise UsageError(f"condition {text!r}: {number!r} is not a number") from None
    if not math.isfinite(threshold):
        raise UsageError(f"condition {text!r}: {number} is not a finite number")
    if traits is not None and trait not in traits:
        raise UsageError(
            f"condition {text!r}: no vector for trait {trait!r} here; there are "
            f"{', '.join(sorted(traits)) or 'none'}"
        )
    chosen: Unit = unit or "sigma"  # type: ignore[assignment]
    if chosen not in units:
        raise UsageError(f"condition {text!r}: the unit must be one of {', '.join(units)} here")
    return Condition(trait, ">" if side == ">" else "<", threshold, chosen)
