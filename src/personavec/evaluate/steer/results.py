"""Steered answers as `--json` prints them, and as the lines of `--out`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from personavec.data import DataReading
from personavec.errors import ActivationError
from personavec.wording import plural

#: The condition of an unsteered answer whose system prompt asks for the trait.
PROMPTED = "system prompt"


@dataclass(frozen=True, kw_only=True)
class SteeredAnswer:
    """One question's answer under one condition; a line of the file that `steer` writes."""

    id: str
    question: str
    condition: str
    """The coefficient as text, or `system prompt`."""
    coefficient: float
    layer: int
    system: str | None
    """The eliciting system prompt, under the condition of that name."""
    response: str
    n_tokens: int
    cut: bool = False
    """Whether it was longer than `max_tokens`, and ended there."""
    state: Literal["answered", "empty", "failed"]
    """`failed` where the numbers overflowed under that coefficient."""
    sigma: float | None = None
    """Mean projection of the answer's tokens, what steering adds included, in standard deviations
    of answers to neutral prompts; None where nothing was read."""


@dataclass(frozen=True, kw_only=True)
class SteerResults:
    """All answers: for every question, one under each condition."""

    format: int = 1
    trait: str
    layer: int
    coefficients: tuple[float, ...] = ()
    why: str = ""
    """Why these coefficients; empty where they were given."""
    answers: tuple[SteeredAnswer, ...]
    data: dict[str, DataReading] = field(default_factory=dict)
    """How the questions were read, by their source."""

    def check_answered(self, dtype: str) -> None:
        """Raise ActivationError where answers failed; `dtype` is the model's."""
        failed = [answer for answer in self.answers if answer.state == "failed"]
        if not failed:
            return
        where = ", ".join(dict.fromkeys(answer.condition for answer in failed))
        remedy = "" if dtype == "float32" else " or --dtype float32"
        raise ActivationError(
            f"{len(failed)} of {plural(len(self.answers), 'answer')} failed, at coefficient "
            f"{where}, as the model's numbers overflowed in {dtype}; use smaller ones{remedy}"
        )
