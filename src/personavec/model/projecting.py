"""Project every token of whole texts onto directions.

The projection happens inside the forward, so that one number per token and direction is kept.
Texts of similar length run together, padded on the right: causal attention never looks there, so
that no mask is needed and attention takes its fast path. A prefix that texts share runs once if
that saves enough. The forward ends after the deepest layer read; no vocabulary logits are computed.
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

#: Tokens of a batch, padding included. On a processor a batch's activations should stay in its
#: caches; on an accelerator, more keep it busy.
CPU_BATCH_TOKENS, DEVICE_BATCH_TOKENS = 2048, 32768
#: A shared prefix runs once if at least this many texts have it and it saves this share of their
#: tokens: the tokens after it need an explicit mask, which is slower.
_MIN_SHARERS, _MIN_SAVED = 4, 0.25


@dataclass(frozen=True, eq=False)
class Directions:
    """Unit directions, each with the layer at whose output it is read."""

    layers: tuple[int, ...]
    unit: Float[Tensor, "direction hidden"]

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.unit):
            raise ValueError(f"{len(self.unit)} directions but {len(self.layers)} layers")


class TokenProjections:
    """Recorder: token projections of one batch, float32 on the CPU, [batch, token, direction]."""

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
    """Every token's projection h.u at each direction's layer, in units of the residual stream.

    Raises ActivationError on NaN or infinite activations.
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
            # Every text is longer than its prefix, which the grouping ensures.
            for batch in batches_under_budget([len(r) for r in rest], budget):
                values = prefix.run([rest[b] for b in batch])
                for row, b in enumerate(batch):
                    own = values[row, : len(rest[b])]
                    check_finite(own)
                    out[members[b]] = torch.cat([prefix.values, own]) if length else own.clone()
    return out


class _Prefix:
    """The prefix that some texts share, run once; with an empty one, texts run as they are."""

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
        """Projections [text, token, direction] of texts that follow the prefix."""
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
    """Does every layer keep plain keys and values, so that a prefix's can be repeated?"""
    return {type(layer) for layer in DynamicCache(config=model.config).layers} == {DynamicLayer}


def _stems(texts: Sequence[TokenIds]) -> list[tuple[int, list[int]]]:
    """Texts grouped by a shared prefix, as (its length, places), if that saves enough.

    The last group holds the other texts, with length 0. Of nested prefixes, such as a system prompt
    and whole prompts under it, the ones that save more tokens are taken.
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
    """Tokens saved, and the (start, stop, stem) groups that save them, among sorted texts.

    `shared[i]` is the length of the prefix that text i shares with the next one.
    """
    # Ranges of neighbours that share longer and longer prefixes, outer before inner. Prefixes can
    # be nested as deeply as there are texts, too deeply for a recursion.
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
        # A text that is itself the prefix keeps a token.
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
