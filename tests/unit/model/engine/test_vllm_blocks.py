"""Decoder blocks are found by the paths of the layers that vLLM registers."""

from types import SimpleNamespace

import pytest
from torch import nn

from personavec.model.engine.vllm_blocks import decodes, find_blocks


class Elsewhere(nn.Module):
    """Stands for a block of another worker."""


def tower(n: int, other: tuple[int, ...] = ()) -> nn.ModuleList:
    return nn.ModuleList(Elsewhere() if i in other else nn.Linear(1, 1) for i in range(n))


def model(text: nn.ModuleList, vision: nn.ModuleList | None = None) -> nn.Module:
    whole, inner = nn.Module(), nn.Module()
    inner.layers = text
    whole.model = inner
    if vision is not None:
        whole.visual = nn.Module()
        whole.visual.blocks = vision
    return whole


def test_all_blocks_even_those_without_attention() -> None:
    """Under the index that they have in the whole model, in any pipeline stage."""
    found = model(tower(6, other=(0, 1, 2)), tower(3))
    paths = ["model.layers.3.self_attn.attn", "model.layers.5.mixer.7"]
    blocks = find_blocks(found, paths, 3, Elsewhere)
    assert blocks == {i: found.get_submodule(f"model.layers.{i}") for i in (3, 4, 5)}


def test_blocks_that_cannot_be_told_are_an_error() -> None:
    both = model(tower(3), tower(3))
    paths = ["model.layers.0.attn", "visual.blocks.0.attn"]
    with pytest.raises(RuntimeError, match="2 lists of 3 decoder blocks"):
        find_blocks(both, paths, 3, Elsewhere)
    with pytest.raises(RuntimeError, match="0 lists of 4 decoder blocks"):
        find_blocks(both, [*paths, "head.attn"], 4, Elsewhere)


def test_an_encoders_attention_is_no_decoders() -> None:
    assert decodes(SimpleNamespace(attn_type="decoder"))
    assert decodes(SimpleNamespace())
    assert not decodes(SimpleNamespace(attn_type="encoder_only"))
