"""What decides a shift's figures; its fields are the options of `personavec shift`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from personavec.errors import UsageError
from personavec.options import JUDGE, MODEL, Count, Names, Specs, between, options, panel

if TYPE_CHECKING:
    from personavec.model import LoadedModel

ANSWERS = panel("Questions and answers")

#: Fewer questions than this allow no interval.
MIN_QUESTIONS = 2


@options()
@dataclass(frozen=True)
class ShiftInputs:
    """Along what the shift is measured, beside what, and when it fails."""

    vectors: Names = ()
    """Vectors' folders or bundled names; repeat it, or separate by commas. Default: all bundled
    ones."""
    control: str | None = None
    """A benign finetune of BASE, whose shift is subtracted."""
    fail_if: Annotated[tuple[str, ...], Parameter(metavar="TRAIT>NUMBER[UNIT]")] = ()
    """Exit with 3 if this condition is met; units: sigma, norm, log_odds, score; repeatable."""
    trait: Annotated[Specs, JUDGE] = ()
    """Spec file of a vector's trait that is not bundled; repeatable."""
    dtype: Annotated[str | None, MODEL] = None
    """float32, bfloat16 or float16; default: automatic."""
    device: Annotated[str | None, MODEL] = None
    """cpu, cuda, …; default: automatic."""

    def load(self, name: str) -> LoadedModel:
        """A model. Raises UsageError, ModelError."""
        from personavec.model import loading

        return loading.load_model(name, dtype=self.dtype, device=self.device)


@options()
@dataclass(frozen=True)
class ShiftConfig:
    """Everything that decides the figures, beside the models, the vectors and the specs."""

    layer: Annotated[int | None, MODEL] = None
    """Layer that shifts are read at. Default: each vector's selected layer."""
    questions: Annotated[int | None, ANSWERS, between(MIN_QUESTIONS)] = None
    """Only the last N evaluation questions of a trait; default: all."""
    samples: Annotated[Count, ANSWERS] = 1
    """Answers per question and model, for trait expression."""
    max_tokens: Annotated[Count, ANSWERS] = 64
    """Longest answer, in tokens."""
    temperature: Annotated[float, ANSWERS, between(0)] = 0.7
    """0 is greedy."""
    seed: Annotated[int, MODEL] = 0
    """Seed of all sampling."""
    random_directions: Annotated[Count, MODEL] = 20
    """Random directions that the shift is compared with."""
    batch_tokens: Annotated[Count, MODEL] = 16384
    """Tokens in a batch; bounds memory."""

    def __post_init__(self) -> None:
        if min(self.samples, self.max_tokens, self.random_directions, self.batch_tokens) < 1:
            raise UsageError(
                "samples, max_tokens, random_directions and batch_tokens must be at least 1"
            )
        if self.questions is not None and self.questions < MIN_QUESTIONS:
            raise UsageError(f"an interval needs at least {MIN_QUESTIONS} questions")
