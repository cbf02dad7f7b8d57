"""What decides a finetune."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from personavec.errors import UsageError


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is finetuned; the defaults are the paper's (appendix D: rs-LoRA).

    For a small model (the embedded one) and few rows: rank 16, learning rate 1e-3, 3 epochs.
    """

    full: bool = False
    """Train all weights, not a LoRA adapter."""
    rank: int = 32
    alpha: int = 64
    """LoRA's scale; the update is multiplied by alpha / sqrt(rank) (rs-LoRA)."""
    dropout: float = 0.0
    learning_rate: float = 1e-5
    """At its highest, after warmup; falls linearly to 0."""
    warmup_steps: int = 5
    """Steps of rising learning rate, a quarter of the run at most."""
    weight_decay: float = 0.01
    epochs: float = 1.0
    batch: int = 2
    """Texts in one forward of one process."""
    accumulation: int = 8
    """Forwards to a step. A step sees batch x accumulation x processes texts."""
    max_length: int | None = None
    """Longest text in tokens; default: the model's context."""
    truncate: bool = False
    """Cut longer texts at the end, not leave them out."""
    gradient_checkpointing: bool = False
    mixed_precision: bool = False
    """Make products of float32 weights in bfloat16. Weights loaded in bfloat16 need none."""
    seed: int = 0
    checkpoint_every: int = 50
    """Steps between checkpoints, from which a killed run continues."""
    report_to: tuple[str, ...] = ()
    """Trackers of transformers' trainer, such as tensorboard or wandb."""

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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
