"""Prompts in one cache, from which rows are copied for each response that follows them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from personavec.model.beginnings import Beginning, Beginnings, Ids, can_share, encode_beginning
from personavec.model.capture import padded
from personavec.model.loaded import LoadedModel


@dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """Different prompts, encoded, each a row of `cache` that ends in the last column.

    `logits` are those of the last token of each.
    """

    cache: DynamicCache
    mask: Int[Tensor, "prompt column"]
    logits: Float[Tensor, "prompt vocabulary"]

    def rows(self, which: Int[Tensor, " row"]) -> DynamicCache:
        """A cache with a copy of a prompt's keys and values in each row."""
        own = copy(self.cache)
        own.layers = [copy(layer) for layer in self.cache.layers]
        own.batch_select_indices(which)
        return own


def encode_prompts(
    loaded: LoadedModel,
    prompts: Sequence[Ids],
    lengths: Sequence[tuple[int, ...]],
    kept: Beginnings,
) -> EncodedPrompts:
    """Encode prompts after those of their beginnings, of `lengths`, that `can_share` allows.

    A beginning that is not among the kept ones is encoded by itself and kept.
    """
    beginnings = [_beginning(loaded, p, n, kept) for p, n in zip(prompts, lengths, strict=True)]
    skipped = [0 if own is None else len(own.ids) for own in beginnings]
    rest = [prompt[n:] for prompt, n in zip(prompts, skipped, strict=True)]
    ids, mask, offsets = padded(rest, pad_id=0, side="left", device=loaded.device)
    after = torch.tensor(skipped, device=loaded.device)[:, None]
    if before := max(skipped):
        columns = torch.arange(before, device=loaded.device)
        mask = torch.cat([(columns >= before - after).to(mask), mask], dim=1)
    cache = _right_aligned(loaded, beginnings, before)
    logits = loaded.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=after + offsets,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    return EncodedPrompts(cache, mask, logits[:, -1])


def _beginning(
    loaded: LoadedModel, prompt: Ids, lengths: Sequence[int], kept: Beginnings
) -> Beginning | None:
    found = None
    if can_share(loaded):
        for length in lengths:
            found = encode_beginning(loaded, kept, prompt[:length])
    return found


def _right_aligned(
    loaded: LoadedModel, beginnings: Sequence[Beginning | None], width: int
) -> DynamicCache:
    """A cache of `width` columns, with a beginning at the end of each row, and zeros before it."""
    cache = DynamicCache(config=loaded.model.config)
    some = next((own for own in beginnings if own is not None), None)
    if some is None:
        return cache
    for number, (layer, shape) in enumerate(zip(cache.layers, some.layers, strict=True)):
        if shape is None or not isinstance(layer, DynamicLayer):
            continue
        keys, values = (
            part.new_zeros(len(beginnings), part.shape[1], width, part.shape[3]) for part in shape
        )
        for row, beginning in enumerate(beginnings):
            own = beginning.layers[number] if beginning is not None else None
            if own is not None:
                keys[row, :, width - own[0].shape[2] :] = own[0][0]
                values[row, :, width - own[1].shape[2] :] = own[1][0]
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
    return cache
