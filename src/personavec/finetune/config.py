"""What decides a finetune; its fields are the options of `personavec finetune`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from cyclopts import Parameter, Token

from personavec.conditions import Condition, Unit, parse_condition
from personavec.errors import UsageError
from personavec.finetune.schedule import Schedule
from personavec.options import (
    MAIN,
    MODEL,
    NO_OPTION,
    Count,
    LayerOrAll,
    between,
    options,
    panel,
    parsed,
)
from personavec.runs import Settings

MitigationName = Literal[
    "none",
    "preventative",
    "random",
    "caft",
    "penalty",
    "kl",
    "interleave",
    "inoculation",
    "drop-flagged",
]
MITIGATIONS: tuple[MitigationName, ...] = get_args(MitigationName)
#: Those that need a persona vector, a coefficient, a strength.
WITH_VECTOR = ("preventative", "random", "caft", "penalty")
WITH_COEFFICIENT = ("preventative", "random")
WITH_STRENGTH = ("penalty", "kl", "interleave")

TrainedPositions = Literal["response", "all"]
#: Units in which trait drift is read.
UNITS: tuple[Unit, ...] = ("sigma", "norm")

MITIGATION = panel("Mitigation")
DRIFT = panel("Trait drift")
TRAINING = panel("Training")
DATA = panel("Data")


def _coefficient(_: Any, tokens: Sequence[Token]) -> float | Schedule | Literal["auto"]:
    """What `--coefficient` or `--dose auto` says."""
    *others, last = tokens
    if "dose" in (last.keyword or ""):
        if last.value != "auto" or any(token.keyword != last.keyword for token in others):
            raise UsageError("--coefficient takes a number, --dose takes auto; give one of them")
        return "auto"
    if any("dose" in (token.keyword or "") for token in others):
        raise UsageError("--coefficient takes a number, --dose takes auto; give one of them")
    course = Schedule.parse(last.value)
    return course.at(0) if course.is_constant else course


COEFFICIENT = Parameter(
    name=("--coefficient", "--dose"),
    converter=_coefficient,
    n_tokens=1,
    accepts_keys=False,
    allow_leading_hyphen=True,
    metavar="N|SHARE:N,…|auto",
    show_choices=False,
)


@options(MITIGATION)
@dataclass(frozen=True)
class Mitigation:
    """What is done against a trait while training, and how much of it.

    - `none`: plain finetuning.
    - `preventative`: steering toward the vectors in training, none afterwards (paper, section 5.2).
    - `random`: the same with random directions of equal norm, its control.
    - `caft`: the vectors' directions are projected out of the residual stream in training.
    - `penalty`: `strength` times the mean squared change of the projection, in standard deviations
      of neutral prompts, is added to the loss.
    - `kl`: `strength` times the KL divergence from the base model, in nats a token, is added.
    - `interleave`: a share `strength` of the rows are other prompts answered by the base model.
    - `inoculation`: rows are trained on under a system prompt that asks for the trait.
    - `drop-flagged`: rows that a screen flagged (`{trait}_flag`) are left out.
    """

    name: Annotated[MitigationName, MAIN, Parameter(name="--mitigation")] = "none"
    """What keeps traits from growing in training."""
    coefficient: Annotated[float | Schedule | Literal["auto"] | None, MAIN, COEFFICIENT] = None
    """preventative, random: a multiple of v, or SHARE:COEFFICIENT points of the run; `--dose auto`
    chooses it from the data."""
    strength: float | None = None
    """penalty, kl: weight in the loss; interleave: share of the rows, between 0 and 1."""

    def __post_init__(self) -> None:
        if self.name not in MITIGATIONS:
            raise UsageError(f"mitigation {self.name!r}: use one of {', '.join(MITIGATIONS)}")
        for given, has, option in (
            (self.coefficient, self.name in WITH_COEFFICIENT, "coefficient"),
            (self.strength, self.name in WITH_STRENGTH, "strength"),
        ):
            if has and given is None:
                raise UsageError(f"mitigation {self.name} needs a {option}")
            if not has and given is not None:
                raise UsageError(f"mitigation {self.name} takes no {option}")
        if self.strength is not None and not (math.isfinite(self.strength) and self.strength > 0):
            raise UsageError(f"strength {self.strength} is not a number above 0")
        if self.name == "interleave" and not 0 < (self.strength or 0) < 1:
            raise UsageError("the strength of interleave is a share of the rows: between 0 and 1")

    def as_dict(self) -> Settings:
        """As settings list it."""
        coefficient = self.coefficient
        if isinstance(coefficient, Schedule):
            coefficient = str(coefficient)
        return {"name": self.name, "coefficient": coefficient, "strength": self.strength}


@options(TRAINING)
@dataclass(frozen=True)
class TrainingConfig:
    """How a model is finetuned; the defaults are the paper's (appendix D: rs-LoRA).

    For a small model (the embedded one) and few rows: rank 16, learning rate 1e-3, 3 epochs.
    """

    full: bool = False
    """Train all weights, not a LoRA adapter."""
    rank: Count = 32
    """LoRA's rank."""
    alpha: Count = 64
    """LoRA's scale (rank-stabilised: the update is multiplied by alpha / sqrt(rank))."""
    dropout: Annotated[float, NO_OPTION] = 0.0
    """Dropout before the LoRA weights, a probability."""
    learning_rate: float = 1e-5
    """Its highest value, after warmup; it falls linearly to 0."""
    warmup_steps: Annotated[int, between(0)] = 5
    """Steps of rising learning rate, at most a quarter of the run."""
    weight_decay: Annotated[float, NO_OPTION] = 0.01
    """AdamW's weight decay."""
    epochs: float = 1.0
    """Passes over the rows."""
    batch: Count = 2
    """Texts in one forward pass of one process."""
    accumulation: Count = 8
    """Forward passes per step. A step sees batch x accumulation x processes texts."""
    max_length: Annotated[int | None, between(2), DATA] = None
    """Longest text in tokens; default: the context."""
    truncate: Annotated[bool, DATA] = False
    """Cut longer texts at the end; default: leave them out."""
    gradient_checkpointing: bool = False
    """Less memory, more time."""
    mixed_precision: bool = False
    """Keep weights in float32 and multiply in bfloat16."""
    seed: Annotated[int, MODEL] = 0
    """Seed of all sampling, of the adapter's first weights and of the order of the rows."""
    checkpoint_every: Count = 50
    """Steps between checkpoints, from which a killed run continues."""
    report_to: Annotated[tuple[str, ...], Parameter(metavar="TRACKER")] = ()
    """A tracker, e.g. tensorboard or wandb; repeatable."""

    def __post_init__(self) -> None:
        whole = {
            "rank": self.rank,
            "alpha": self.alpha,
            "batch": self.batch,
            "accumulation": self.accumulation,
            "checkpoint_every": self.checkpoint_every,
        }
        if low := [name for name, value in whole.items() if value < 1]:
            raise UsageError(f"{low[0]} must be at least 1")
        if not self.learning_rate > 0 or not self.epochs > 0:
            raise UsageError("learning_rate and epochs must be above 0")


CONDITIONS = parsed(
    lambda text: [parse_condition(text, units=UNITS)],
    "TRAIT>NUMBER[UNIT]",
    many=True,
    name="--stop-if",
)


@options(MITIGATION)
@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides a finetune's result, beside the model, the data and the vectors."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    mitigation: Mitigation = field(default_factory=Mitigation)
    layer: LayerOrAll = None
    """Layer at which the mitigation acts, or all; default: each vector's selected layer."""
    positions: TrainedPositions = "response"
    """Positions at which the mitigation acts: those that choose response tokens, or all."""
    drift_every: Annotated[Count, DRIFT] = 10
    """Steps between drift readings."""
    stop_if: Annotated[tuple[Condition, ...], CONDITIONS, DRIFT] = ()
    """Stop with exit code 3 when a trait's drift crosses a threshold, in sigma (default) or norm;
    repeatable."""

    def __post_init__(self) -> None:
        if self.drift_every < 1:
            raise UsageError("drift_every must be at least 1")
