"""Finds a model's decoder blocks inside vLLM's workers, on any architecture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


def own_blocks(model: torch.nn.Module, config: Any) -> dict[int, torch.nn.Module]:
    """This worker's decoder blocks, by their index in the whole model, from 0 on.

    `config` is vLLM's configuration. Raises RuntimeError if the blocks are not found.
    """
    from vllm.model_executor.layers.attention_layer_base import (  # pyright: ignore[reportMissingImports]
        AttentionLayerBase,
    )
    from vllm.model_executor.models.utils import PPMissingLayer  # pyright: ignore[reportMissingImports]

    # vLLM registers all layers that cache earlier tokens, by their path in the model.
    registered = config.compilation_config.static_forward_context
    paths = [
        path
        for path, layer in registered.items()
        if isinstance(layer, AttentionLayerBase) and decodes(layer)
    ]
    expected = config.model_config.get_num_layers(config.parallel_config)
    return find_blocks(model, paths, expected, PPMissingLayer)


def decodes(layer: Any) -> bool:
    """Whether a layer is part of a decoder; state-space layers have no `attn_type`, and are."""
    return getattr(layer, "attn_type", "decoder") in ("decoder", None)


def find_blocks(
    model: torch.nn.Module, paths: Iterable[str], expected: int, missing: type
) -> dict[int, torch.nn.Module]:
    """The blocks, by index, of the list that contains the layers at `paths`.

    `model.layers.7.self_attn.attn` is in block 7 of the list `model.layers`. Blocks of type
    `missing` are on other workers. Raises RuntimeError unless exactly one list has `expected` other
    blocks.
    """
    lists = {path.split(number)[0] for path in paths for number in _numbers(path)[:1]}
    found: list[dict[int, torch.nn.Module]] = []
    for path in sorted(lists):
        children = model.get_submodule(path.rstrip(".")).named_children()
        own = {int(n): c for n, c in children if n.isdigit() and not isinstance(c, missing)}
        if len(own) == expected:
            found.append(own)
    if len(found) != 1:
        raise RuntimeError(f"{len(found)} lists of {expected} decoder blocks in {sorted(lists)}")
    return found[0]


def _numbers(path: str) -> list[str]:
    return [f".{part}." for part in path.split(".") if part.isdigit()]
