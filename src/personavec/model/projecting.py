"""Project every token of texts onto directions.

The projection happens in hooks during the forward pass, so that only one number per token and
direction is kept. Texts of similar length run together, padded on the right: causal attention
never reaches the padding, so no mask is needed and attention takes its fast path. A prefix shared
by texts runs once if that saves enough. The pass ends after the deepest layer that is read, and
logits are not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from personavec.model.capture import (
    batches_under_budget,
    check_finite,
    recording,
    run_to_deepest_layer,
)
from personavec.model.memory import keep_freed_memory

TokenIds = npt.NDArray[np.int32]

#: Most tokens in a batch, including padding. On a CPU the activations of a batch should fit its
#: caches; a GPU needs more tokens to be busy.
CPU_BATCH_TOKENS, DEVICE_BATCH_TOKENS = 2048, 32768
#: A shared prefix runs once if at least this many texts have it and this share of their tokens is
#: saved. It must pay off, since the tokens after it need an explicit mask, which is slower.
_MIN_SHARERS, _MIN_SAVED = 4, 0.25


@dataclass(frozen=True, eq=False)
class Directions:
    """Unit directions, each with the layer at which it is read (0 is the embedding)."""

    layers: tuple[int, ...]
    unit: Float[Tensor, "direction hidden"]

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.unit):
            raise ValueError(f"{len(self.unit)} directions but {len(self.layers)} layers")


class TokenProjections:
    """A `Recorder` of one batch's projections [batch, token, direction], float32 on the CPU."""

    def __init__(self, directions: Directions, device: torch.device):
        self.layers = tuple(sorted(set(directions.layers)))
        self._columns = [
            [i for i, own in enumerate(directions.layers) if own == layer] for layer in self.layers
        ]
        self._unit = [
            directions.unit[columns].float().T.contiguous().to(device) for columns in self._columns
        ]
        self._n = len(directions.layers)
        self.values = torch.empty(0)

    def clear(self, rows: int, width: int) -> None:
        """Make room for a batch of so many rows and tokens. With none, forwards are not read."""
        self.values = torch.empty(rows, width, self._n)

    def add(self, slot: int, hidden: Tensor) -> None:
        if not len(self.values):
            return
        unit = self._unit[slot].to(hidden.device)
        self.values[:, :, self._columns[slot]] = (hidden.float() @ unit).cpu()


@torch.inference_mode()
def project_tokens(
    model: Any,
    texts: Sequence[TokenIds],
    directions: Directions,
    *,
    batch_tokens: int | None = None,
    share_prefixes: bool = True,
) -> list[Float[Tensor, "token direction"]]:
    """The projection h.u of every token at each direction's layer, in residual-stream units.

    `batch_tokens` is the most tokens in a batch, including padding; by default it suits the device.
    Raises ActivationError for NaN or infinite activations.
    """
    if not texts:
        return []
    device = model.get_input_embeddings().weight.device
    budget = batch_tokens or (CPU_BATCH_TOKENS if device.type == "cpu" else DEVICE_BATCH_TOKENS)
    if device.type == "cpu":
        keep_freed_memory()
    out: list[Tensor] = [torch.empty(0)] * len(texts)
    recorder = TokenProjections(directions, device)
    share = share_prefixes and _is_plain(model)
    stems = _stems(texts) if share else [(0, list(range(len(texts))))]
    with recording(model, recorder, stop_early=True):
        for length, members in stems:
            prefix = _Prefix(model, recorder, texts[members[0]][:length], device)
            rest = [texts[i][length:] for i in members]
            # `_stems` ensures that every text is longer than its prefix.
            for batch in batches_under_budget([len(r) for r in rest], budget):
                values = prefix.run([rest[b] for b in batch])
                for row, b in enumerate(batch):
                    own = values[row, : len(rest[b])]
                    check_finite(own)
                    out[members[b]] = torch.cat([prefix.values, own]) if length else own.clone()
    return out


class _Prefix:
    """A prefix shared by some texts, which runs once; it may be empty."""

    def __init__(
        self, model: Any, recorder: TokenProjections, stem: TokenIds, device: torch.device
    ):
        self._model, self._recorder, self._device = model, recorder, device
        self._cache: DynamicCache | None = None
        if len(stem):
            kept = DynamicCache(config=model.config)
            self.values = self._forward([stem], kept)[0]
            check_finite(self.values)
            self._cache = kept

    def run(self, texts: Sequence[TokenIds]) -> Tensor:
        """Projections [text, token, direction] of the texts' tokens after the prefix."""
        if self._cache is None:
            return self._forward(texts, None)
        own = deepcopy(self._cache)
        own.batch_repeat_interleave(len(texts))
        return self._forward(texts, own)

    def _forward(self, texts: Sequence[TokenIds], past: DynamicCache | None) -> Tensor:
        width = max(map(len, texts))
        ids = torch.zeros(len(texts), width, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.from_numpy(text.astype(np.int64))
        self._recorder.clear(len(texts), width)
        run_to_deepest_layer(self._model, past, input_ids=ids.to(self._device))
        return self._recorder.values


def _is_plain(model: Any) -> bool:
    """Whether all layers cache plain keys and values, which can be repeated for several texts."""
    return {type(layer) for layer in DynamicCache(config=model.config).layers} == {DynamicLayer}


def _stems(texts: Sequence[TokenIds]) -> list[tuple[int, list[int]]]:
    """Group texts by shared prefixes that save enough, as (length of the prefix, indices of texts).

    The last group holds the other texts, with length 0. Of nested prefixes, such as a system prompt
    and the prompts that begin with it, those that save more tokens are chosen.
    """
    order = sorted(range(len(texts)), key=lambda i: texts[i].tolist())
    shared = [_common(texts[a], texts[b]) for a, b in pairwise(order)]
    groups = []
    for start, stop, length in _best(shared, [len(texts[i]) for i in order], 0, len(order))[1]:
        groups.append((length, order[start:stop]))
    taken = {i for _, members in groups for i in members}
    alone = [i for i in range(len(texts)) if i not in taken]
    return [*groups, (0, alone)] if alone else groups


_Group = tuple[int, int, int]


def _best(
    shared: Sequence[int], lengths: Sequence[int], start: int, stop: int
) -> tuple[int, list[_Group]]:
    """The most tokens that can be saved among sorted texts, and the groups that save them.

    A group is (start, stop, length of the prefix). `shared[i]` is the length of the prefix that
    text i shares with text i + 1.
    """
    # List the ranges of adjacent texts that share a prefix, outer before inner. They can be nested
    # as deeply as there are texts, which is too deep for recursion.
    ranges: list[tuple[int, int, int, list[tuple[int, int]]]] = []
    pending = [(start, stop)]
    while pending:
        a, b = pending.pop()
        if b - a < _MIN_SHARERS:
            continue
        common = min(shared[a : b - 1])  # the prefix that all texts of the range share
        cuts = [a, *(i + 1 for i in range(a, b - 1) if shared[i] == common), b]
        ranges.append((a, b, common, list(pairwise(cuts))))
        pending += ranges[-1][3]
    best: dict[tuple[int, int], tuple[int, list[_Group]]] = {}
    for a, b, common, inner in reversed(ranges):
        # A text that is itself the prefix keeps its last token.
        stem = min(common, min(lengths[a:b]) - 1)
        saved = stem * (b - a - 1)
        if saved < _MIN_SAVED * sum(lengths[a:b]):
            saved = 0
        apart = [best[part] for part in inner if part in best]
        saved_apart = sum(more for more, _ in apart)
        if saved_apart > saved:
            best[a, b] = saved_apart, [group for _, groups in apart for group in groups]
        else:
            best[a, b] = saved, [(a, b, stem)] if saved else []
    return best.get((start, stop), (0, []))


def _common(a: TokenIds, b: TokenIds) -> int:
    """Length of the prefix that two texts share."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n
