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
        return ChosenCoefficients(_UNKNOWN, "the vector's coherent range is not known")
    if config.layer not in (None, vector.layer):
        why = f"the vector's coherent range was measured at layer {vector.layer}"
        return ChosenCoefficients(_UNKNOWN, why)
    values = tuple(sorted({found[0], 0.0, found[1]}))
    if values == (0.0,):
        return ChosenCoefficients(_UNKNOWN, "only unsteered answers stayed coherent")
    ends = "end" if len(values) == 2 else "ends"
    return ChosenCoefficients(values, f"0 and the {ends} of the vector's coherent range")


def said(coefficients: Sequence[float]) -> str:
    """As "−4, 0 and +1"."""
    *others, last = (decimal(c, "+g") if c else "0" for c in coefficients)
    return f"{', '.join(others)} and {last}" if others else last
