"""What decides an evaluation's result; its fields are the options of `personavec evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from personavec.errors import UsageError
from personavec.options import MODEL, Count, LayerOrAll, Names, Numbers, between, options, panel
from personavec.presets import Preset, choose_sizes, sizes

if TYPE_CHECKING:
    from personavec.evaluate.subject import SteeredBy

ANSWERS = panel("Questions and answers")
CAPABILITY = panel("Capability")
STEERING = panel("Steering")

#: Fewer questions than this allow no interval.
MIN_QUESTIONS = 2


@options()
@dataclass(frozen=True)
class EvaluateInputs:
    """What is evaluated, steered by what, against what."""

    trait: Annotated[tuple[str, ...], Parameter(metavar="TRAIT")]
    """A bundled trait or a spec file; repeatable."""
    vectors: Annotated[tuple[str, ...], Parameter(metavar="VECTOR")] = ()
    """Steer with this vector; repeatable."""
    coefficient: Numbers | None = None
    """One for all vectors or one each, e.g. 2,-1."""
    layer: Annotated[LayerOrAll, STEERING] = None
    """A layer or 'all'; default: each vector's selected layer."""
    cap: Annotated[float | None, STEERING] = None
    """Cap the projection at this percentile of ordinary tokens, e.g. 99."""
    compare_to: str | None = None
    """Another model, or the same one to compare with itself unsteered; gives paired differences."""
    cue: Annotated[Path | None, ANSWERS] = None
    """Training rows; their system prompts or opening turns are put before the questions."""

    @property
    def repeats(self) -> int:
        """How often a question is asked of all models, with and without cues."""
        return (2 if self.compare_to else 1) * (2 if self.cue else 1)

    def steered_by(self) -> tuple[SteeredBy, ...]:
        """The vectors with their coefficients. Raises UsageError."""
        from personavec.evaluate.subject import SteeredBy
        from personavec.vectors import check_layer, load_vector

        coefficients = self._coefficients()
        vectors = [load_vector(name) for name in self.vectors]
        check_layer(self.layer, vectors)
        return tuple(
            SteeredBy(vector, coefficient, self.layer, self.cap)
            for vector, coefficient in zip(vectors, coefficients, strict=True)
        )

    def _coefficients(self) -> tuple[float, ...]:
        """One for each vector. Raises UsageError."""
        given = (self.coefficient, self.layer, self.cap)
        if not self.vectors:
            if any(each is not None for each in given):
                raise UsageError(
                    "--coefficient, --layer and --cap need --vectors, which name what to add"
                )
            return ()
        found = self.coefficient or (() if self.cap is None else (0.0,))
        if not found:
            raise UsageError(
                "--vectors needs --coefficient: how much of each vector to add, or --cap"
            )
        if len(found) not in (1, len(self.vectors)):
            raise UsageError(
                f"--coefficient gives {len(found)} numbers for {len(self.vectors)} "
                "--vectors; give one for all, or one each"
            )
        return found * len(self.vectors) if len(found) == 1 else found


#: None is all that there are.
SIZES = sizes(
    #                  quick, standard, thorough
    samples=(1, 1, 4),
    questions=(6, None, None),
    judge_pairs=(1, None, None),
    capability_items=(32, None, None),
)


@options()
@dataclass(frozen=True)
class EvaluateConfig:
    """Everything that decides an evaluation's result, beside the models and the specs."""

    preset: Preset = "standard"
    """How large the run is: sets the defaults of --samples, --questions, --judge-pairs and
    --capability-items."""
    samples: Annotated[Count, ANSWERS] = SIZES["samples"]
    """Responses per question."""
    questions: Annotated[int | None, ANSWERS, between(MIN_QUESTIONS)] = SIZES["questions"]
    """Only the last N evaluation questions of a trait: an extraction selects a vector's layer on
    the first ones. Default: all."""
    judge_pairs: Annotated[int | None, ANSWERS, between(1)] = SIZES["judge_pairs"]
    """Only the first N judge pairs; default: all."""
    system: Annotated[str | None, ANSWERS] = None
    """System prompt before every question."""
    max_tokens: Annotated[Count, ANSWERS] = 64
    """Longest response, in tokens."""
    temperature: Annotated[float, ANSWERS, between(0)] = 0.7
    """0 is greedy."""
    top_p: Annotated[float, ANSWERS, between(0, 1)] = 1.0
    """Sample from the likeliest tokens of this total probability."""
    seed: Annotated[int, MODEL] = 0
    """Seed of all sampling."""
    capability: Annotated[Names, CAPABILITY] = ()
    """Tasks of lm-evaluation-harness, separated by commas; `packaged` comes with this package."""
    capability_items: Annotated[int | None, CAPABILITY, between(2)] = SIZES["capability_items"]
    """Only the first items of each task; default: all."""
    batch_tokens: Annotated[Count, MODEL] = 16384
    """Tokens in a batch; bounds memory."""

    def __post_init__(self) -> None:
        choose_sizes(self)
        if self.max_tokens < 1 or self.samples < 1 or self.batch_tokens < 1:
            raise UsageError("max_tokens, samples and batch_tokens must be at least 1")
        if self.questions is not None and self.questions < MIN_QUESTIONS:
            raise UsageError(f"an interval needs at least {MIN_QUESTIONS} questions")
