"""What decides steered answers; its fields are the options of `personavec steer`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from personavec.options import MODEL, Count, Numbers, between, options, panel

ANSWERS = panel("Answers")


@options()
@dataclass(frozen=True)
class SteerInputs:
    """What is asked, and what steers."""

    vectors: str = "optimistic"
    """A vector's folder or a bundled name."""
    file: Path | None = None
    """Rows with a `question`, or one question a line (.txt)."""


@options()
@dataclass(frozen=True)
class SteerConfig:
    """Everything that decides the answers, beside the model, the vector and the questions."""

    coefficients: Annotated[Numbers, Parameter(name="--coefficient")] = ()
    """Coefficients, e.g. -1,0,1. Default: 0 and the ends of the range in which the vector's answers
    stay coherent."""
    layer: int | None = None
    """Layer that is steered. Default: the selected one."""
    max_tokens: Annotated[Count, ANSWERS] = 64
    """Longest response, in tokens."""
    temperature: Annotated[float, ANSWERS, between(0)] = 0.7
    """0 is greedy."""
    seed: Annotated[int, MODEL] = 0
    """Seed of all sampling."""
    batch_tokens: Annotated[Count, MODEL] = 16384
    """Tokens in a batch; bounds memory."""
