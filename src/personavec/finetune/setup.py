"""What goes with a training run, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from personavec.finetune.hooks import PullAlong
from personavec.finetune.probes import Drift
from personavec.progress import Progress


@dataclass(frozen=True)
class Trained:
    """What a training run came to."""

    steps: int
    losses: tuple[float, ...]
    """The loss of every step, terms that a mitigation added included."""
    added: tuple[float, ...]
    """What a mitigation added to each; empty where it adds nothing."""
    stopped: bool
    """A reader ended it before its last step."""
    saved: Path | None
    """The folder of what was trained; None where it was stopped before a checkpoint."""

    @property
    def loss(self) -> float:
        """The mean over the last tenth of the steps, what a mitigation added left out."""
        added = self.added or (0.0,) * len(self.losses)
        plain = [loss - more for loss, more in zip(self.losses, added, strict=True)]
        last = plain[-max(1, len(plain) // 10) :]
        return sum(last) / len(last)


@dataclass(frozen=True, eq=False)
class Setup:
    """What goes with a training run, beside the examples and the configuration."""

    acting: tuple[Any, ...] = ()
    """transformers callbacks that change the training forwards, as `PreventativeSteering`."""
    pull: PullAlong | None = None
    """Reads how the loss pulls along directions."""
    addition: Any = None
    """A term of the loss (`trainer.Addition`)."""
    drift: Drift | None = None
    """Reads the probes and may end the run."""
    per_token: tuple[Any, ...] = ()
    """For every example, rows of numbers for its tokens, which the addition gets
    (`base_projection`)."""
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    label: str = "training"
    max_steps: int = -1
    """Steps after which training ends; -1 for what the epochs come to."""
