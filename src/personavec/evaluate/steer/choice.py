"""Which coefficients steer where none are given. Loads no torch itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from personavec.wording import decimal

if TYPE_CHECKING:
    from personavec.evaluate.steer.config import SteerConfig
    from personavec.vectors import PersonaVector

#: Where the vector says nothing of what it keeps coherent.
_UNKNOWN = (-1.0, 0.0, 1.0)


@dataclass(frozen=True)
class ChosenCoefficients:
    """Coefficients, and why they were chosen; no reason where they were given."""

    values: tuple[float, ...]
    why: str = ""


def choose_coefficients(vector: PersonaVector, config: SteerConfig) -> ChosenCoefficients:
    """Those of the config, else 0 and the ends of the vector's coherent range.

    Between the ends answers differ as far as they can while they stay coherent.
    """
    if config.coefficients:
        return ChosenCoefficients(tuple(config.coefficients))
    found = vector.coherent_range
    if found is None:
        return ChosenCoefficients(_UNKNOWN, "how far its answers stay coherent is not known")
    if config.layer not in (None, vector.layer):
        why = f"how far its answers stay coherent is known at layer {vector.layer} alone"
        return ChosenCoefficients(_UNKNOWN, why)
    values = tuple(sorted({found[0], 0.0, found[1]}))
    if values == (0.0,):
        return ChosenCoefficients(_UNKNOWN, "no steered answer stayed coherent when it was made")
    return ChosenCoefficients(values, _what_each_does(*found))


def _what_each_does(low: float, high: float) -> str:
    """What the ends of a coherent range and 0 do, in the order of the numbers."""
    far = "as far as its answers stay coherent"
    if not low:
        return f"not at all, and toward the trait {far}"
    if not high:
        return f"away from the trait {far}, and not at all"
    farther = "away from it" if -low > high else "toward it"
    why = "" if -low == high else f", which is farther {farther}"
    return f"away from the trait, not at all, and toward it, either way {far}{why}"


def said(coefficients: Sequence[float]) -> str:
    """As "−4, 0 and +1"."""
    *others, last = (decimal(c, "+g") if c else "0" for c in coefficients)
    return f"{', '.join(others)} and {last}" if others else last
