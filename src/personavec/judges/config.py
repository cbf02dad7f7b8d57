"""What decides the results of `personavec judges`; the fields are the commands' options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from personavec.options import Names, options

#: The tune half of the known answers is for choosing and fitting, the report half for reporting.
Half = Literal["tune", "report"]


@options()
@dataclass(frozen=True)
class ScoreConfig:
    """The columns of a file of answers."""

    question_column: str = "question"
    """Column of the question."""
    answer_column: str = "answer"
    """Column of the answer."""


@options()
@dataclass(frozen=True)
class CheckConfig:
    """The known answers that a judge is tested on."""

    half: Half | None = None
    """One half of the checks, tune or report; default: both."""


@options()
@dataclass(frozen=True)
class CompareConfig:
    """The scores that are compared."""

    columns: Names
    """Columns of scores, e.g. judge_a,judge_b."""
    question_column: str = "question"
    """Column of the question."""
    seed: int = 0
    """Seed of the bootstrap and of the pairs of rows that are drawn."""
