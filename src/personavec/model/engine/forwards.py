"""Forwards of a transformers model with a cache."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, DynamicCache

from personavec.model import LoadedModel


def forward_logits(
    model, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache
) -> Float[Tensor, "row token"]:
    """Float32 logits of the last position, where the model computed them."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float()


@torch.inference_mode()
def try_forward(loaded: LoadedModel) -> None:
    """One forward of two tokens, as in generation. Raises what the model raises."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=loaded.device)
    cache = DynamicCache(config=loaded.model.config)
    forward_logits(loaded.model, ids, torch.ones_like(ids), torch.arange(2)[None].to(ids), cache)
