"""What decides a comparison; its fields are the options of `personavec compare-mitigations`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from cyclopts import Parameter

from personavec.errors import UsageError
from personavec.finetune.config import (
    DATA,
    TRAINING,
    WITH_COEFFICIENT,
    WITH_STRENGTH,
    Mitigation,
    MitigationName,
    TrainedPositions,
    TrainingConfig,
)
from personavec.options import (
    MAIN,
    MODEL,
    NO_OPTION,
    Count,
    Integers,
    LayerOrAll,
    Names,
    between,
    options,
    panel,
    parsed,
)

MEASURES = panel("What is measured")
WHERE = panel("Where mitigations act")
#: An option with a form that turns it off.
ON_OR_OFF = Parameter(negative_bool=("no-",))

#: An arm: no finetuning, steering of the plain finetune at inference, or a mitigation.
ArmName = MitigationName | Literal["base", "steering"]

_NAMES: tuple[str, ...] = ("steering", *get_args(MitigationName))


@dataclass(frozen=True)
class Arm:
    """One way to finetune: a mitigation, and its coefficient or strength.

    `steering` is inference-time steering of the plain finetune; a negative amount steers away from
    the trait.
    """

    mitigation: ArmName
    amount: float | Literal["auto"] | None = None

    @property
    def name(self) -> str:
        """As results name it: `preventative 2.0`."""
        return self.mitigation if self.amount is None else f"{self.mitigation} {self.amount}"

    def as_mitigation(self) -> Mitigation:
        """The mitigation of the arm's finetune; only for arms that train."""
        name: Any = self.mitigation
        if name in WITH_COEFFICIENT:
            return Mitigation(name, coefficient=self.amount)
        strength: Any = self.amount
        return Mitigation(name, strength=strength)


BASE, PLAIN = Arm("base"), Arm("none")


def parse_arms(texts: Sequence[str]) -> tuple[Arm, ...]:
    """Arms of `NAME` or `NAME:AMOUNT,AMOUNT…`, as in `preventative:1,2,auto` or `caft`.

    Raises UsageError for an unknown name, or an amount that is missing or not taken.
    """
    found: list[Arm] = []
    for text in texts:
        name, _, amounts = text.strip().partition(":")
        if name not in _NAMES:
            raise UsageError(f"--mitigation {text}: use one of {', '.join(_NAMES)}")
        takes = name == "steering" or name in WITH_COEFFICIENT or name in WITH_STRENGTH
        values = [part.strip() for part in amounts.split(",") if part.strip()]
        if takes and not values:
            raise UsageError(f"--mitigation {text}: say how much, as in {name}:1,2")
        if values and not takes:
            raise UsageError(f"--mitigation {text}: {name} takes no amount")
        known: Any = name
        found += [Arm(known, _amount(value, text)) for value in values] or [Arm(known)]
    for arm in found:
        if arm.mitigation not in ("steering", "base"):
            arm.as_mitigation()  # Refuses what no finetune could do.
    return tuple(dict.fromkeys(found))


def _amount(value: str, text: str) -> float | Literal["auto"]:
    if value == "auto" and text.partition(":")[0] == "preventative":
        return "auto"
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"--mitigation {text}: {value} is not a number") from None


#: The paper's comparison, with its control.
DEFAULT_ARMS = parse_arms(("preventative:1,2,4", "random:4", "steering:-1,-2,-4"))
#: Settings that teach a small model a few rows.
SMALL = TrainingConfig(rank=16, alpha=32, learning_rate=1e-3, epochs=3)

ARMS = parsed(
    lambda text: parse_arms([text]),
    "NAME[:AMOUNT,…]",
    many=True,
    name="--mitigation",
    show_default=False,
)


@options(MEASURES)
@dataclass(frozen=True)
class CompareConfig:
    """Everything that decides the figures, beside the model, the data, the vector and the spec."""

    arms: Annotated[tuple[Arm, ...], MAIN, ARMS] = DEFAULT_ARMS
    """A mitigation of finetune, or steering, at inference; repeatable. The base and the plain
    finetune are always compared. Default: preventative:1,2,4 random:4 steering:-1,-2,-4."""
    seeds: Annotated[Integers, MAIN] = (0, 1, 2)
    """Training seeds, separated by commas. Answers are sampled with the same noise in all cells."""
    training: Annotated[TrainingConfig, NO_OPTION] = SMALL
    """How every arm is trained."""
    layer: Annotated[LayerOrAll, WHERE] = None
    """Layer at which mitigations and steering act, or all; default: the vector's selected one."""
    positions: Annotated[TrainedPositions, WHERE] = "response"
    """Positions at which mitigations act in training."""
    held_out: Annotated[float, DATA] = 0.2
    """Share of the prompts that is not trained on."""
    questions: Annotated[int | None, between(2)] = 12
    """The last N evaluation questions of the trait."""
    samples: Count = 1
    """Answers per question and cell."""
    max_tokens: Count = 64
    """Longest answer, in tokens."""
    temperature: Annotated[float, NO_OPTION] = 0.7
    """Of the answers; 0 is greedy."""
    cues: Annotated[bool, ON_OR_OFF] = True
    """Also ask under the training data's own cues."""
    capability: Annotated[bool, ON_OR_OFF] = True
    """Run the packaged task in every cell."""
    task: Annotated[str, NO_OPTION] = "packaged"
    """The capability task: the packaged one, or one of lm-evaluation-harness."""
    capability_items: Annotated[int | None, between(2)] = None
    """Only the task's first items."""
    texts: Annotated[int, NO_OPTION] = 48
    """Neutral texts of which the perplexity is measured."""
    flags: Annotated[Names, DATA] = ()
    """Columns of flagged rows, for drop-flagged, separated by commas."""
    seed: Annotated[int, MODEL] = 0
    """Seed of the held-out split and of all sampling."""
    batch_tokens: Annotated[Count, MODEL] = 16384
    """Tokens in a batch; bounds memory."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "arms", tuple(dict.fromkeys(self.arms)))
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UsageError("give each training seed once, and at least one")
        if not 0 < self.held_out < 1:
            raise UsageError("held_out is a share of the prompts, between 0 and 1")
        if min(self.samples, self.max_tokens, self.batch_tokens) < 1 or self.texts < 2:
            raise UsageError("samples, max_tokens, batch_tokens are at least 1, texts 2")

    @property
    def trained(self) -> list[Arm]:
        """The arms with a finetune of their own, the plain one first."""
        own = [arm for arm in self.arms if arm.mitigation not in ("steering", "base", "none")]
        return [PLAIN, *own]

    @property
    def steered(self) -> list[Arm]:
        """The arms that steer the plain finetune."""
        return [arm for arm in self.arms if arm.mitigation == "steering"]

    @property
    def all_arms(self) -> list[Arm]:
        """The base, the arms that train, and those that steer."""
        return [BASE, *self.trained, *self.steered]


@options(TRAINING)
@dataclass(frozen=True)
class ComparedTraining:
    """The settings of training that the command line offers; the others are those of `SMALL`."""

    rank: Count = 16
    """LoRA's rank; alpha is twice it."""
    learning_rate: float = 1e-3
    """Its highest value, after warmup."""
    epochs: float = 3
    """Passes over the rows."""
    batch: Count = 2
    """Texts in one forward pass."""
    accumulation: Count = 8
    """Forward passes per step."""

    def config(self) -> TrainingConfig:
        """The settings of every finetune; its seed is set for each."""
        return TrainingConfig(
            rank=self.rank,
            alpha=2 * self.rank,
            learning_rate=self.learning_rate,
            epochs=self.epochs,
            batch=self.batch,
            accumulation=self.accumulation,
        )
