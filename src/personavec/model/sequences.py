"""Log-probabilities of a few token sequences after each of many prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from personavec.model.capture import padded
from personavec.model.loaded import LoadedModel
from personavec.model.scoring import token_logprobs

Ids = tuple[int, ...]

#: Implementations of attention that accept any mask.
_ANY_MASK = ("eager", "sdpa")
#: Model types with ALiBi, which derive distances from a padding mask. Falcon has a setting for it.
_ALIBI = ("bloom", "mpt")


@torch.inference_mode()
def sequence_logprobs(
    loaded: LoadedModel,
    prompts: Sequence[Ids],
    sequences: Sequence[Ids],
    *,
    batch_tokens: int = 12288,
) -> Float[Tensor, "prompt sequence"]:
    """log p(sequence | prompt) in nats, float32, for every prompt and sequence.

    The sequences form a trie. Its nodes follow the prompt in one row, and each attends to the
    prompt and to its ancestors, so the prompt and shared beginnings of sequences run once. A batch
    has at most `batch_tokens` positions. Models without plain full attention score each sequence
    by itself.
    """
    if not prompts:
        return torch.zeros(0, len(sequences))
    if not _takes_any_mask(loaded):
        jobs = [(prompt, sequence) for prompt in prompts for sequence in sequences]
        found = token_logprobs(loaded, jobs, batch_tokens=batch_tokens)
        totals = torch.stack([logprobs.sum() for logprobs in found])
        return totals.reshape(len(prompts), len(sequences))
    trie = _trie(sequences)
    result = torch.empty(len(prompts), len(sequences))
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    while order:
        width = len(prompts[order[-1]]) + len(trie.ids)
        size = max(1, batch_tokens // width)
        batch, order = order[-size:], order[:-size]
        result[batch] = _score(loaded, [prompts[i] for i in batch], trie)
    return result


def _takes_any_mask(loaded: LoadedModel) -> bool:
    config = loaded.model.config
    layers = {type(layer) for layer in DynamicCache(config=config).layers}
    text = config.get_text_config()
    alibi = text.model_type in _ALIBI or getattr(text, "alibi", False)
    return layers == {DynamicLayer} and config._attn_implementation in _ANY_MASK and not alibi


@dataclass(frozen=True, eq=False)
class _Trie:
    """A trie of token sequences. Its inner nodes are numbered, parents before children.

    Node 0 is the root, which stands for the prompt. Node n > 0 is token `ids[n - 1]`.
    """

    ids: list[int]
    depth: list[int]
    """For each of `ids`, its distance from the root."""
    ancestors: list[list[int]]
    """For each of `ids`, the indices of its ancestors and itself."""
    steps: list[tuple[int, int]]
    """All edges as (node, token), including those to leaves."""
    paths: list[list[int]]
    """For each sequence, the indices of its steps."""


def _trie(sequences: Sequence[Ids]) -> _Trie:
    inner = {sequence[:n] for sequence in sequences for n in range(1, len(sequence))}
    nodes = sorted(inner, key=lambda prefix: (len(prefix), prefix))
    number = {(): 0} | {prefix: n for n, prefix in enumerate(nodes, start=1)}
    steps: dict[tuple[int, int], int] = {}
    paths = [
        [
            steps.setdefault((number[sequence[:n]], token), len(steps))
            for n, token in enumerate(sequence)
        ]
        for sequence in sequences
    ]
    return _Trie(
        ids=[prefix[-1] for prefix in nodes],
        depth=[len(prefix) for prefix in nodes],
        ancestors=[[number[prefix[:n]] - 1 for n in range(1, len(prefix) + 1)] for prefix in nodes],
        steps=list(steps),
        paths=paths,
    )


def _score(loaded: LoadedModel, prompts: Sequence[Ids], trie: _Trie) -> Tensor:
    device, n = loaded.device, len(trie.ids)
    ids, seen, positions = padded(prompts, pad_id=0, side="left", device=device)
    width = ids.shape[1]
    nodes = torch.tensor(trie.ids, dtype=torch.long, device=device)
    depth = torch.tensor(trie.depth, dtype=torch.long, device=device)
    related = torch.zeros(n, n, dtype=torch.bool, device=device)
    for node, ancestors in enumerate(trie.ancestors):
        related[node, ancestors] = True
    allowed = torch.zeros(len(prompts), width + n, width + n, dtype=torch.bool, device=device)
    allowed[:, :width, :width] = seen[:, None, :].bool()
    allowed[:, :width, :width] &= torch.ones_like(allowed[0, :width, :width]).tril()
    allowed[:, width:, :width] = seen[:, None, :].bool()
    allowed[:, width:, width:] = related
    dtype = loaded.model.get_input_embeddings().weight.dtype
    mask = torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    logits = loaded.model(
        input_ids=torch.cat([ids, nodes.expand(len(prompts), n)], dim=1),
        attention_mask=mask[:, None],
        position_ids=torch.cat([positions, seen.sum(-1)[:, None] + depth - 1], dim=1),
        use_cache=False,
        logits_to_keep=n + 1,
    ).logits
    # Only the steps' tokens are needed, so the softmax over [batch, node, vocabulary] is not kept.
    at, token = torch.tensor(trie.steps, device=device).T
    norms = torch.stack([row.float().logsumexp(-1) for row in logits])
    steps = logits[:, at, token].float() - norms[:, at]
    return torch.stack([steps[:, path].sum(-1) for path in trie.paths], dim=1).cpu()
