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
    ways = "" if len(values) == 2 else " either way"
    return ChosenCoefficients(values, f"not at all, and as far{ways} as its answers stay coherent")


def said(coefficients: Sequence[float]) -> str:
    """As "−4, 0 and +1"."""
    *others, last = (decimal(c, "+g") if c else "0" for c in coefficients)
    return f"{', '.join(others)} and {last}" if others else last
