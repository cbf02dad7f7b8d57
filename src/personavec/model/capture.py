"""Capture: read the residual stream during a forward pass, reduced to span sums in the hooks.

`capture_means` gives the mean activation of spans of texts; `recording` attaches the hooks.
Memory for [layers, batch, tokens, hidden] is never needed: a hook multiplies one block's output by
the spans' weights and adds the result to that layer's float32 buffer [batch, spans, hidden].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from personavec.errors import ActivationError, HookError
from personavec.model.blocks import block_output, find_blocks, input_device


class _DeepestLayerReached(Exception):
    """Raised by the hook of the deepest layer needed, to end a forward pass early."""


@runtime_checkable
class Recorder(Protocol):
    """Receives hidden states during a forward pass, for each of its `layers`."""

    layers: tuple[int, ...]

    def add(self, slot: int, hidden: Tensor) -> None:
        """Receive the hidden states [batch, tokens, hidden] of layer `layers[slot]`."""


class SpanSums:
    """Float32 sums of hidden states over weighted token spans, per batch row and layer.

    Before each forward pass, call `weigh` with weights [spans, batch, tokens] for the tokens of
    that pass (during cached decoding, only the new tokens). Each layer's sums stay on the layer's
    device, so that no pass waits for a copy. Divide `sums` by the summed weights to get means.
    """

    def __init__(self, layers: Sequence[int], spans: int, batch: int, hidden_size: int):
        self.layers = tuple(layers)
        self._shape = (batch, spans, hidden_size)
        self._by_slot: dict[int, Tensor] = {}
        self._weights: dict[torch.device, Tensor] = {}

    def weigh(self, weights: Float[Tensor, "span batch token"]) -> None:
        """Set the weights of the next forward pass's tokens in every span."""
        by_row = weights.transpose(0, 1).float().contiguous()
        self._weights = {by_row.device: by_row}

    def add(self, slot: int, hidden: Tensor) -> None:
        """Add one layer's hidden states [batch, tokens, hidden], weighted as `weigh` says."""
        if not self._weights:
            return
        device = hidden.device
        if device not in self._weights:
            self._weights[device] = next(iter(self._weights.values())).to(device)
        if slot not in self._by_slot:
            self._by_slot[slot] = torch.zeros(self._shape, device=device)
        self._by_slot[slot].baddbmm_(self._weights[device], hidden.float())

    @property
    def sums(self) -> Float[Tensor, "span batch layer hidden"]:
        """The sums so far, on the CPU."""
        empty = torch.zeros(self._shape)
        slots = range(len(self.layers))
        stacked = torch.stack([self._by_slot.get(slot, empty).cpu() for slot in slots])
        return stacked.permute(2, 1, 0, 3)


@contextmanager
def recording(model: nn.Module, recorder: Recorder, *, stop_early: bool = False) -> Iterator[None]:
    """In this context, every forward pass of `model` is recorded by `recorder`.

    With `stop_early` the pass ends after the deepest layer in `recorder.layers`; run it with
    `run_to_deepest_layer`. The hooks are removed when the context ends, even after an error.
    Raises HookError if a layer's hook never fired.
    """
    blocks = find_blocks(model).stack
    deepest = max(recorder.layers)
    fired: set[int] = set()

    def read(slot: int, layer: int, hidden: Tensor) -> None:
        fired.add(layer)
        recorder.add(slot, hidden)
        if stop_early and layer == deepest:
            raise _DeepestLayerReached

    handles = [
        _read_layer(blocks, layer, partial(read, slot, layer))
        for slot, layer in enumerate(recorder.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if missed := set(recorder.layers) - fired:
        raise HookError(f"capture did not fire at layer(s) {sorted(missed)}: no forward ran there")


def _read_layer(blocks: Any, layer: int, read: Callable[[Tensor], None]) -> RemovableHandle:
    """Hook `read` to a layer: the output of block `layer`, or for 0 the input of the first."""

    def read_input(module, args, kwargs):
        read(args[0] if args else kwargs["hidden_states"])

    def read_output(module, args, output):
        read(block_output(output))

    if layer == 0:
        return blocks[0].register_forward_pre_hook(read_input, with_kwargs=True)
    return blocks[layer - 1].register_forward_hook(read_output)


def run_to_deepest_layer(model: Any, past: Any = None, **inputs: Tensor) -> None:
    """Run the decoder up to the deepest recorded layer, without computing logits.

    `past` is a key-value cache that the pass continues and extends. Rows that are padded on the
    right need no mask and no positions, since causal attention never reaches the padding; without a
    mask, attention takes its fast causal path.
    """
    cached = {} if past is None else {"past_key_values": past}
    try:
        model.base_model(**inputs, **cached, use_cache=past is not None)
    except _DeepestLayerReached:
        return


def padded(
    rows: Sequence[Sequence[int]], *, pad_id: int, side: str, device: torch.device | str
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and position ids [batch, tokens] of rows padded on one side."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        span = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, span] = torch.tensor(row, dtype=torch.long)
        mask[i, span] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return ids.to(device), mask.to(device), positions.to(device)


def batches_under_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group row indices into batches, longest first, of at most `budget` tokens with padding.

    A row that is longer than the budget gets its own batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


@torch.inference_mode()
def capture_means(
    model: Any,
    rows: Sequence[Sequence[int]],
    spans: Sequence[Sequence[tuple[int, int]]],
    *,
    layers: Sequence[int] | None = None,
    batch_tokens: int = 2048,
) -> Float[Tensor, "row span layer hidden"]:
    """Mean activations of the residual stream over token spans of texts, float32 on the CPU.

    `rows` are token ids. `spans[i]` lists the half-open (start, stop) spans of row i; every row has
    the same number of spans. `layers` defaults to all layers, including the embedding (0). The
    forward pass stops after the deepest of them. `batch_tokens` is the most tokens in a batch,
    including padding.

    Raises ActivationError for NaN or infinite activations, ValueError for an empty span.
    """
    blocks = find_blocks(model)
    layers = range(blocks.n_layers + 1) if layers is None else layers
    n_spans = len(spans[0])
    if any(stop <= start for row in spans for start, stop in row):
        raise ValueError("a span to capture is empty")
    device = input_device(model)
    out = torch.empty(len(rows), n_spans, len(layers), blocks.hidden_size)
    for batch in batches_under_budget([len(row) for row in rows], batch_tokens):
        ids, _, _ = padded([rows[i] for i in batch], pad_id=0, side="right", device=device)
        sums = SpanSums(layers, n_spans, len(batch), blocks.hidden_size)
        sums.weigh(_mean_weights([spans[i] for i in batch], ids.shape[1]))
        with recording(model, sums, stop_early=True):
            run_to_deepest_layer(model, input_ids=ids)
        out[batch] = sums.sums.transpose(0, 1)
    check_finite(out)
    return out


def _mean_weights(
    spans: Sequence[Sequence[tuple[int, int]]], tokens: int
) -> Float[Tensor, "span batch token"]:
    """Weights that turn sums over spans into means."""
    weights = torch.zeros(len(spans[0]), len(spans), tokens)
    for row, of_row in enumerate(spans):
        for span, (start, stop) in enumerate(of_row):
            weights[span, row, start:stop] = 1 / (stop - start)
    return weights


def check_finite(activations: Tensor) -> None:
    """Raise ActivationError if any activation is NaN or infinite."""
    if not torch.isfinite(activations).all():
        raise ActivationError(
            "the model produced NaN or infinite activations; "
            "load it in another precision, e.g. --dtype float32"
        )
