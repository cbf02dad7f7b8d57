"""Find a model's decoder blocks and the shape of its residual stream.

Layer l is the output of the l-th block counted from 1; layer 0 is the embedding (the input of
the first block). The stack is found by its shape rather than by a list of class names: the
longest `ModuleList` whose length is the config's number of layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from personavec.errors import ModelError


@dataclass(frozen=True)
class Blocks:
    """A model's decoder blocks in order, and the width of the residual stream between them."""

    stack: nn.ModuleList
    hidden_size: int

    @property
    def n_layers(self) -> int:
        return len(self.stack)


def find_blocks(model: nn.Module) -> Blocks:
    """The stack of decoder blocks of a decoder-only model.

    Raises ModelError, naming what was looked for, when there is none.
    """
    config = cast(Any, model).config.get_text_config()
    n_layers, hidden_size = config.num_hidden_layers, config.hidden_size
    stacks = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not stacks:
        raise ModelError(
            f"{type(model).__name__}: no stack of {n_layers} decoder blocks was found; "
            "personavec needs a decoder-only model with one regular stack of blocks"
        )
    return Blocks(stack=stacks[0], hidden_size=hidden_size)


def block_output(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The hidden states [batch, tokens, hidden] in what a block returned."""
    return output[0] if isinstance(output, tuple) else output


def with_block_output(
    output: torch.Tensor | tuple[torch.Tensor, ...], hidden: torch.Tensor
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """What a block returned, with its hidden states replaced."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
