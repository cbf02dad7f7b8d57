"""Supervised finetuning of rows, with a mitigation: TRL's SFTTrainer underneath.

Knows rows, a model and a configuration; nothing of datasets as files or of what the result is
compared with. `train` is the whole of it: encode the rows, wrap the model, run, save.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from personavec.errors import missing_extra
from personavec.finetune.config import TrainingConfig
from personavec.finetune.examples import Example
from personavec.finetune.setup import Setup, Trained
from personavec.model import LoadedModel


def train(
    loaded: LoadedModel,
    examples: Sequence[Example],
    folder: Path,
    config: TrainingConfig,
    *,
    setup: Setup | None = None,
    save_to: Path | None = None,
) -> Trained:
    """Train on the examples; checkpoints go to `folder`, from which a killed run continues.

    `save_to` gets the adapter (or the model with `full`), from the last good checkpoint where a
    reader stopped the run. The loaded model is the base again afterwards, unless `full`. Raises
    ActivationError for a loss that is not finite, StorageError for a full disk, UsageError for a
    model that cannot be trained so.
    """
    return _sft().train(loaded, examples, folder, config, setup or Setup(), save_to)


def _sft() -> Any:
    """The module that trains, which needs trl and peft."""
    try:
        from personavec.finetune import trainer as sft
    except ImportError:
        raise missing_extra("finetune") from None
    return sft
