"""Find a model's decoder blocks and the shape of its residual stream.

Layer l is the output of block l, where blocks count from 1; layer 0 is the embedding (the input of
the first block). The stack is found by its length rather than by class names: it is the
`ModuleList` in the model's text decoder that is as long as the config's number of layers.
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
    """Find the decoder blocks of a decoder-only model, also inside adapters and other wrappers.

    Raises ModelError when there is no such stack.
    """
    kind = type(model).__name__
    config = cast(Any, model).config
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{kind} is an encoder-decoder model; personavec needs a decoder-only one, with one "
            "residual stream from the prompt to the response"
        )
    text = config.get_text_config()
    n_layers = getattr(text, "num_hidden_layers", None)
    hidden_size = getattr(text, "hidden_size", None)
    if not n_layers or not hidden_size:
        raise ModelError(
            f"{kind}: its config has no num_hidden_layers or no hidden_size; personavec needs a "
            "decoder-only model with one regular stack of blocks"
        )
    # A multimodal model has other stacks than that of its text decoder.
    decoder = cast(Any, model).get_decoder()
    stacks = [
        module
        for module in (decoder if isinstance(decoder, nn.Module) else model).modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not stacks:
        raise ModelError(
            f"{kind}: no stack of {n_layers} decoder blocks was found; personavec needs a "
            "decoder-only model with one regular stack of blocks"
        )
    return Blocks(stack=stacks[0], hidden_size=hidden_size)


def input_device(model: nn.Module) -> torch.device:
    """The device for token ids. Offloaded embedding weights are on `meta`; then it is the CPU."""
    device = cast(Any, model).get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device


def block_output(output: torch.Tensor | tuple[Any, ...]) -> torch.Tensor:
    """The hidden states [batch, tokens, hidden] in a block's output."""
    return output[0] if isinstance(output, tuple) else output


def with_block_output(
    output: torch.Tensor | tuple[Any, ...], hidden: torch.Tensor
) -> torch.Tensor | tuple[Any, ...]:
    """A block's output with its hidden states replaced by `hidden` [batch, tokens, hidden]."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
