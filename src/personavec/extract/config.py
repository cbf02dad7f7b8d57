"""What decides an extraction's result; its fields are the options of `personavec extract`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from personavec.errors import UsageError
from personavec.options import MODEL, Count, Integers, Numbers, between, options, panel, parsed
from personavec.presets import Preset, choose_sizes, sizes

#: Intervals are over questions; fewer questions than this have none.
MIN_QUESTIONS = 2
#: Layers over the middle of the network are at most so many.
MAX_CANDIDATES = 8

ROLLOUTS = panel("Rollouts")
VALIDATION = panel("Layer and validation")
BASELINE = panel("Baseline")


def _estimators(text: str) -> tuple[str, ...]:
    from personavec.vectors import ESTIMATORS

    if text == "both":
        return ("mean", "logistic")
    if text not in ESTIMATORS:
        raise UsageError(f"{text}: use {', '.join(ESTIMATORS)} or both")
    return (text,)


def _halves(end: int) -> tuple[float, ...]:
    """From -end to end in steps of a half."""
    return tuple(step / 2 for step in range(-2 * end, 2 * end + 1))


ESTIMATORS = parsed(_estimators, "mean|logistic|both", name="--estimator", show_choices=False)


#: None is all that the spec has. The doses of `quick` are among those of `standard`, the innermost
#: and the outermost included: a curve that bends at its end must not pass for want of a dose. It
#: selects the layer among fewer, at a dose at which most vectors are still coherent, on as many
#: questions, and tests on ten: intervals over fewer are too narrow (see `stats/bootstrap.py`).
#: Where one answer to each decides too little, the doses that matter get up to two more. Its
#: rollouts are as many as a stable direction needs.
SIZES = sizes(
    #                       quick, standard, thorough
    samples=(1, 1, 2),
    pairs=(3, None, None),
    judge_pairs=(2, None, None),
    questions=(None, None, None),
    sweep_coefficients=((2.0,), (2.0, 4.0), (2.0, 3.0, 4.0)),
    candidates=(4, 8, 8),
    sweep_questions=(8, 8, 8),
    coefficients=((-4, -2, -1, 0, 1, 2, 4), (-4, -3, -2, -1, 0, 1, 2, 3, 4), _halves(4)),
    validation_questions=(10, None, None),
    validation_samples=(1, 2, 4),
    end_samples=(2, 0, 0),
    random_directions=(5, 5, 10),
    neutral_prompts=(16, 48, 48),
)


@options()
@dataclass(frozen=True)
class ExtractConfig:
    """Everything that decides an extraction's result, beside the model and the spec."""

    preset: Preset = "standard"
    """How large the run is: sets the defaults of the sizes below."""
    samples: Count = SIZES["samples"]
    """Responses per question, pair and polarity."""
    pairs: Annotated[int | None, ROLLOUTS, between(1)] = SIZES["pairs"]
    """Only the first N instruction pairs; default: all."""
    judge_pairs: Annotated[int | None, ROLLOUTS, between(1)] = SIZES["judge_pairs"]
    """Only the first N judge pairs; default: all."""
    questions: Annotated[int | None, ROLLOUTS, between(MIN_QUESTIONS)] = SIZES["questions"]
    """Only the first N extraction questions; default: all."""
    max_tokens: Annotated[Count, ROLLOUTS] = 64
    """Longest response, in tokens."""
    temperature: Annotated[float, ROLLOUTS, between(0)] = 0.7
    """0 is greedy."""
    top_p: Annotated[float, ROLLOUTS, between(0, 1)] = 1.0
    """Sample from the likeliest tokens of this total probability."""
    seed: Annotated[int, MODEL] = 0
    """Seed of all sampling."""
    trait_threshold: Annotated[float, ROLLOUTS] = 50
    """Trait score that positive rollouts must exceed and negative ones stay under."""
    coherence_floor: Annotated[float, ROLLOUTS] = 50
    """Rollouts below this coherence are dropped."""
    layers: Annotated[Integers | None, VALIDATION] = None
    """Candidate layers, e.g. 10,14,18; default: evenly over the middle of the network."""
    candidates: Annotated[int, VALIDATION, between(1, MAX_CANDIDATES)] = SIZES["candidates"]
    """Candidate layers where --layers names none."""
    sweep_coefficients: Annotated[Numbers, VALIDATION] = SIZES["sweep_coefficients"]
    """Coefficients that layers are selected at."""
    sweep_questions: Annotated[Count, VALIDATION] = SIZES["sweep_questions"]
    """Evaluation questions set aside for layer selection; validation uses the others."""
    coefficients: Annotated[Numbers, VALIDATION] = SIZES["coefficients"]
    """Dose-response coefficients, 0 included."""
    validation_questions: Annotated[int | None, VALIDATION, between(MIN_QUESTIONS)] = SIZES[
        "validation_questions"
    ]
    """Only the last N evaluation questions for validation; default: all that are left."""
    validation_samples: Annotated[Count, VALIDATION] = SIZES["validation_samples"]
    """Steered responses per validation question and coefficient, controls included."""
    end_samples: Annotated[int, VALIDATION, between(0)] = SIZES["end_samples"]
    """At most so many more where a check is not decided, mostly at the coherent range's ends."""
    random_directions: Annotated[Count, VALIDATION] = SIZES["random_directions"]
    """Random directions that the vector is compared with."""
    neutral_prompts: Annotated[Count, VALIDATION] = SIZES["neutral_prompts"]
    """Neutral prompts whose projections standardise later readings."""
    estimators: Annotated[tuple[str, ...], ESTIMATORS, VALIDATION] = ("mean",)
    """How the direction is estimated: mean, logistic, or both: the layer sweep then picks."""
    include_thinking: Annotated[bool, ROLLOUTS] = False
    """Include a reasoning model's thoughts in the response mean."""
    batch_tokens: Annotated[Count, MODEL] = 16384
    """Tokens in a batch; bounds memory."""

    def __post_init__(self) -> None:
        choose_sizes(self)
        if 0 not in self.coefficients:
            raise UsageError("the coefficients must include 0, the unsteered baseline")
        # A dose-response is read from left to right, whatever order they were given in.
        object.__setattr__(self, "coefficients", tuple(sorted({*self.coefficients})))
        object.__setattr__(self, "sweep_coefficients", tuple(sorted({*self.sweep_coefficients})))
        if self.sweep_questions < MIN_QUESTIONS:
            raise UsageError(f"sweep_questions must be at least {MIN_QUESTIONS}")
        if min(each or MIN_QUESTIONS for each in (self.questions, self.validation_questions)) < 2:
            raise UsageError(f"an interval needs at least {MIN_QUESTIONS} questions")
        if self.max_tokens < 1 or self.samples < 1 or self.batch_tokens < 1:
            raise UsageError("max_tokens, samples and batch_tokens must be at least 1")


@options()
@dataclass(frozen=True)
class ImportConfig:
    """Everything that decides an imported vector, beside its file, its name and the model."""

    layer: int | None = None
    """Layer to use by default; default: the middle of the network."""
    neutral_prompts: Annotated[Count, BASELINE] = 48
    """Neutral prompts whose projections standardise later readings."""
    max_tokens: Annotated[Count, BASELINE] = 64
    """Longest response to a neutral prompt, in tokens."""
    seed: Annotated[int, MODEL] = 0
    """Seed of all sampling."""
    batch_tokens: Annotated[Count, MODEL] = 16384
    """Tokens in a batch; bounds memory."""
