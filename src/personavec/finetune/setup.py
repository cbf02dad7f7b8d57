"""What goes with a training run beside its texts and settings, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from personavec.finetune.preventative import Ablation, PreventativeSteering
from personavec.finetune.probes import DriftLog
from personavec.finetune.pull import LossPull
from personavec.progress import Progress


@runtime_checkable
class LossTerm(Protocol):
    """A term that a mitigation adds to the loss of every forward pass."""

    needs_logits: bool

    def attach(self, model: Any) -> None:
        """Called with the model as it is trained, before the first step."""
        ...

    def detach(self) -> None:
        """Called when training ends, also by an error."""
        ...

    def __call__(self, model: Any, inputs: Mapping[str, Tensor], logits: Tensor | None) -> Tensor:
        """The term's sum over the response tokens of one forward pass.

        `logits` are those at `kept_columns(inputs["labels"])`, where they are needed.
        """
        ...


@dataclass(frozen=True, eq=False)
class TrainingSetup:
    """What acts on a training run and what reads it; by default nothing."""

    steering: tuple[PreventativeSteering | Ablation, ...] = ()
    """Callbacks that change the residual stream in training."""
    loss_term: LossTerm | None = None
    """What a mitigation adds to the loss."""
    per_token: tuple[list[list[float]], ...] = ()
    """For each text, the numbers [token][direction] that the loss term reads
    (`base_projection`)."""
    pull: LossPull | None = None
    """Reads how the loss pulls along vectors."""
    drift: DriftLog | None = None
    """Reads the probes, and may stop the run."""
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    label: str = "training"
    max_steps: int = -1
    """Steps after which training ends; -1 for all epochs."""


@dataclass(frozen=True)
class Trained:
    """What a training run came to."""

    steps: int
    losses: tuple[float, ...]
    """Loss of each step in nats a token, a mitigation's term included."""
    added: tuple[float, ...]
    """A mitigation's term of each step; empty where it adds none."""
    stopped: bool
    """A condition on the drift ended the run."""
    saved: Path | None
    """Folder of what was trained; None where it was stopped before a checkpoint."""

    @property
    def loss(self) -> float:
        """Mean over the last tenth of the steps, without a mitigation's term."""
        added = self.added or (0.0,) * len(self.losses)
        plain = [loss - more for loss, more in zip(self.losses, added, strict=True)]
        last = plain[-max(1, len(plain) // 10) :]
        return sum(last) / len(last)
