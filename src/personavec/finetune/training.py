"""Supervised finetuning of texts, with a mitigation; TRL's SFTTrainer underneath.

Knows nothing of files of rows, nor of what the result is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from personavec.errors import missing_extra
from personavec.finetune.config import TrainingConfig
from personavec.finetune.setup import Trained, TrainingSetup
from personavec.finetune.texts import TrainingText
from personavec.model import LoadedModel


def train(
    loaded: LoadedModel,
    texts: Sequence[TrainingText],
    folder: Path,
    config: TrainingConfig,
    *,
    setup: TrainingSetup | None = None,
    save_to: Path | None = None,
) -> Trained:
    """Train on the texts; checkpoints go to `folder`, from which a killed run continues.

    `save_to` gets the adapter (or the model with `full`); where a condition stopped the run, that
    of the last checkpoint before it. Afterwards the loaded model is the base again, unless `full`.
    Raises ActivationError for a loss that is not finite, StorageError for a full disk, UsageError
    for a model that cannot be trained with these settings.
    """
    return _trainer().train(loaded, texts, folder, config, setup or TrainingSetup(), save_to)


def _trainer() -> Any:
    """The module that trains, which needs trl and peft."""
    try:
        from personavec.finetune import trainer
    except ImportError:
        raise missing_extra("finetune") from None
    return trainer
