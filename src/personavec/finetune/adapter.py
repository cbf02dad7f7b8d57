"""The model as it is trained: with a fresh LoRA adapter, or itself.

Imports peft, and is imported only where something is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from personavec.errors import UsageError
from personavec.finetune.config import TrainingConfig
from personavec.model import LoadedModel, take_off


@contextmanager
def trainable(loaded: LoadedModel, config: TrainingConfig) -> Iterator[Any]:
    """The model to train: with a fresh LoRA adapter, seeded, or itself with `full`.

    On exit the adapter and the hooks and settings of training are removed; what full training
    changed stays. Raises UsageError for full training in less than float32, where small updates
    would be lost, and for a model that has an adapter already.
    """
    model = loaded.model
    if isinstance(model, PeftModel):
        raise UsageError(
            f"{loaded.identity.name} is an adapter already; merge it into its base model first"
        )
    torch.manual_seed(config.seed)
    forward = vars(model).get("forward")
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    if config.full and model.get_input_embeddings().weight.dtype != torch.float32:
        raise UsageError("full finetuning needs float32 weights: load with --dtype float32")
    wrapped = model if config.full else get_peft_model(model, _lora(config))
    try:
        yield wrapped
    finally:
        if config.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        if isinstance(wrapped, PeftModel):
            take_off(wrapped)
            for name, weight in model.named_parameters():
                weight.requires_grad_(name in trained)
        # TRL replaces the model's forward.
        vars(model).pop("forward", None)
        if forward is not None:
            model.forward = forward
        model.eval()


def _lora(config: TrainingConfig) -> LoraConfig:
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=True,
        # Every linear layer of the blocks, as in the paper, without the output head.
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
