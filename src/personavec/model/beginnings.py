"""Beginnings that prompts share: a system prompt, its examples, earlier turns of a conversation.

Their keys and values are computed once, kept within a memory budget, and copied to every prompt
that begins so. Only unsteered encodings are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from personavec.model.blocks import find_blocks
from personavec.model.capture import SpanSums, recording, run_to_deepest_layer
from personavec.model.loaded import LoadedModel

Ids = tuple[int, ...]

#: A beginning is kept if it is longer by so many tokens than the one that it continues.
MIN_TOKENS = 32
#: Bytes of keys and values that are kept.
BUDGET = 512 << 20
#: Families that read distances off a mask of padding, of which there is some after a beginning.
_ALIBI = frozenset({"bloom", "falcon", "mpt"})


@dataclass(frozen=True, eq=False)
class Beginning:
    """The first tokens of some prompts, encoded.

    `layers` are keys and values [1, head, token, dim]; None where a layer keeps none of its own.
    `sums` are the tokens' summed activations, if they were captured.
    """

    ids: Ids
    layers: tuple[tuple[Tensor, Tensor] | None, ...]
    sums: Float[Tensor, "layer hidden"] | None = None

    @classmethod
    def of(cls, ids: Ids, cache: DynamicCache, sums: Tensor | None = None) -> Beginning:
        """The beginning that a cache of one row holds."""
        layers = tuple(
            (layer.keys, layer.values)
            if isinstance(layer, DynamicLayer)
            and layer.keys is not None
            and layer.values is not None
            else None
            for layer in cache.layers
        )
        return cls(ids, layers, sums)

    def cache(self, config: Any) -> DynamicCache:
        """A cache that continues it. A forward replaces the cache's tensors, and leaves these."""
        cache = DynamicCache(config=config)
        for layer, own in zip(cache.layers, self.layers, strict=True):
            if own is not None and isinstance(layer, DynamicLayer):
                layer.lazy_initialization(*own)
                layer.keys, layer.values = own
        return cache

    def first(self, n: int) -> Beginning:
        """Its first `n` tokens, without sums unless these are all."""
        if n == len(self.ids):
            return self
        layers = tuple(
            None if own is None else (own[0][:, :, :n], own[1][:, :, :n]) for own in self.layers
        )
        return Beginning(self.ids[:n], layers)

    @property
    def bytes(self) -> int:
        """The size of its keys and values."""
        return sum(part.nbytes for own in self.layers if own is not None for part in own)


class Beginnings:
    """The latest used beginnings of one model, of at most `budget` bytes."""

    def __init__(self, budget: int = BUDGET):
        self._budget, self._bytes = budget, 0
        self._kept: OrderedDict[Ids, Beginning] = OrderedDict()

    def longest(self, ids: Ids, *, with_sums: bool = False) -> Beginning | None:
        """The longest kept beginning with which `ids` begin."""
        fits = [
            own
            for own, beginning in self._kept.items()
            if own == ids[: len(own)] and (beginning.sums is not None or not with_sums)
        ]
        if not fits:
            return None
        best = max(fits, key=len)
        self._kept.move_to_end(best)
        return self._kept[best]

    def common(self, ids: Ids) -> Beginning | None:
        """The longest beginning that `ids` share with a kept one, cut to what they share."""
        lengths = {own: _common(own, ids) for own in self._kept}
        best = max(lengths, key=lambda own: lengths[own], default=())
        if not best or lengths[best] < MIN_TOKENS:
            return None
        self._kept.move_to_end(best)
        return self._kept[best].first(lengths[best])

    def keep(self, beginning: Beginning) -> None:
        """Keep a beginning; those that were not used for longest go when the budget is spent."""
        self._drop(beginning.ids)
        self._kept[beginning.ids] = beginning
        self._bytes += beginning.bytes
        while self._bytes > self._budget:
            self._drop(next(iter(self._kept)))

    def _drop(self, ids: Ids) -> None:
        if ids in self._kept:
            self._bytes -= self._kept.pop(ids).bytes


def can_share(loaded: LoadedModel) -> bool:
    """Whether a beginning's keys and values can be copied into other rows.

    A sliding window and position biases count the padding that stands between a beginning and the
    rest of a prompt; recurrent layers keep no keys and values.
    """
    config = loaded.model.config
    layers = {type(layer) for layer in DynamicCache(config=config).layers}
    return layers == {DynamicLayer} and config.get_text_config().model_type not in _ALIBI


def shared_beginnings(prompts: Sequence[Ids], minimum: int = MIN_TOKENS) -> list[tuple[int, ...]]:
    """For every prompt the lengths of the beginnings that it shares with others, shortest first.

    Each is longer by at least `minimum` tokens than the one before. A prompt's last token, whose
    logits choose the response, is never part of one.
    """
    ids = [prompt[:-1] for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    found: list[tuple[int, ...]] = [()] * len(ids)
    # Prompts order[start:stop] share the beginnings `lengths`.
    groups: list[tuple[int, int, tuple[int, ...]]] = [(0, len(ids), ())]
    while groups:
        start, stop, lengths = groups.pop()
        if stop - start < 2:
            for i in order[start:stop]:
                found[i] = lengths
            continue
        shared = _common(ids[order[start]], ids[order[stop - 1]])
        if shared - (lengths[-1] if lengths else 0) >= minimum:
            lengths = (*lengths, shared)
        for i in order[start:stop]:
            found[i] = lengths
        groups += [(a, b, lengths) for a, b in _runs(ids, order, start, stop, shared)]
    return found


def _runs(
    ids: Sequence[Ids], order: Sequence[int], start: int, stop: int, shared: int
) -> list[tuple[int, int]]:
    """The ranges within order[start:stop] that share more than the first `shared` tokens."""
    runs, first = [], start
    for i in range(start + 1, stop + 1):
        token = ids[order[first]][shared : shared + 1]
        if i == stop or ids[order[i]][shared : shared + 1] != token:
            if token:
                runs.append((first, i))
            first = i
    return runs


def _common(a: Ids, b: Ids) -> int:
    """Length of the prefix that two prompts share."""
    return next(
        (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def encode_beginning(
    loaded: LoadedModel, kept: Beginnings, ids: Ids, *, capture: bool = False
) -> Beginning:
    """The beginning `ids`, encoded after the longest kept one and kept; with sums on `capture`."""
    before = kept.longest(ids, with_sums=capture)
    if before is not None and len(before.ids) == len(ids):
        return before
    model, blocks = loaded.model, find_blocks(loaded.model)
    rest = ids if before is None else ids[len(before.ids) :]
    cache = DynamicCache(config=model.config) if before is None else before.cache(model.config)
    sums = SpanSums(range(blocks.n_layers + 1), 1, 1, blocks.hidden_size)
    sums.weigh(torch.ones(1, 1, len(rest), device=loaded.device))
    with recording(model, sums) if capture else nullcontext():
        run_to_deepest_layer(model, cache, input_ids=torch.tensor([rest], device=loaded.device))
    summed = sums.sums[0, 0] if capture else None
    if summed is not None and before is not None and before.sums is not None:
        summed = summed + before.sums
    found = Beginning.of(ids, cache, summed)
    kept.keep(found)
    return found
