"""What runs inside vLLM's workers: steering and capture, for all requests of a step at once.

`Extension` is a worker extension of vLLM. It finds the decoder layers as the vllm-lens plugin
does, on every architecture and pipeline stage, and puts hooks of its own on them. The plugin's own
steering and hooks run a Python function for every request at every layer, steer a prompt's tokens
too, lose absolute positions while decoding, and go on after an error. Here a step is planned once,
each layer then costs one addition, and an error ends the run.

Every request says in its `extra_args` what is wanted of it (`NOTE`): plain numbers. Tensors come
and go as safetensors; nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from personavec.model.engine.sampling import usable

#: The key of a request's note in its `extra_args`. A note holds
#:   id        what its results are fetched by
#:   prompt    the number of prompt tokens
#:   steer     [layer, row of the table, positions] of every addition
#:   cap       [layer, row of its own `units`, ceiling, positions] of every cap
#:   own       tensors that it alone is acted on with, as safetensors: `table`, which its rows are
#:             then of, and `units`; else None, and its rows are of the table that all share
#:   response  [start, stop] of the response's tokens, where capture is wanted; else None
#:   project   the first position whose projections are wanted, with all after it; else None
NOTE = "personavec"

#: Spans of a captured request, as `base.SPANS` orders them.
_SPANS = 3


@dataclass(frozen=True, eq=False)
class _Caps:
    """At most one cap for each of some tokens: [token, hidden] unit directions, and ceilings."""

    tokens: Tensor
    units: Tensor
    ceilings: Tensor

    def apply(self, hidden: Tensor, residual: Tensor | None) -> Tensor:
        """`hidden`, less what the projection of the whole stream exceeds its ceiling by."""
        stream = hidden[self.tokens].float()
        if residual is not None:
            stream = stream + residual[self.tokens].float()
        over = ((stream * self.units).sum(-1) - self.ceilings).clamp(min=0)
        removed = -over[:, None] * self.units
        return hidden.index_add(0, self.tokens, removed.to(hidden.dtype))


@dataclass
class _Step:
    """What the layers do with the tokens of one forward."""

    table: Tensor
    """The vectors of this step's additions, [row, hidden]."""
    additions: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By layer: the tokens that are steered, and the row of the table that each one gets."""
    caps: dict[int, list[_Caps]] = field(default_factory=dict)
    """By layer, one after another: a request's first cap there, its second and so on."""
    read: tuple[Tensor, Tensor, Tensor] | None = None
    """Tokens that are captured, the row of the sums that each one counts in, and its weight."""
    projected: list[tuple[str, int, int]] = field(default_factory=list)
    """Requests whose tokens are projected, each with its first one and the one after its last, as
    counted among those that are projected."""
    chosen: Tensor | None = None
    """The tokens that are projected, where not all of them are."""
    names: list[str | None] = field(default_factory=list)
    """Requests in their order, which is that of the logits that follow; None for one of no one."""


class Extension:
    """Mixed into vLLM's worker; its methods are called by name from the engine."""

    model_runner: Any  # the worker's

    def personavec_install(self) -> list[int]:
        """Put hooks on this worker's layers; returns them, counted from 1 (0: the embedding)."""
        # The plugin's way to a decoder layer; found anew with each of its versions.
        from vllm.distributed import parallel_state  # pyright: ignore[reportMissingImports]
        from vllm.forward_context import get_forward_context  # pyright: ignore[reportMissingImports]
        from vllm_lens._worker_ext import _discover_layer_modules

        self._personavec = Residual(
            self.model_runner,
            {i + 1: block for i, block in _discover_layer_modules(self).items()},
            reads=parallel_state.get_tensor_model_parallel_rank() == 0,
            # A forward of vLLM's own, such as one that only measures memory, is of no request.
            serves=lambda: get_forward_context().attn_metadata is not None,
        )
        model = self.model_runner.model
        compute = model.compute_logits

        def compute_logits(*args: Any, **kwargs: Any) -> Any:
            logits = compute(*args, **kwargs)
            self._personavec.look_at(logits)
            return logits

        model.compute_logits = compute_logits
        return list(self._personavec.layers)

    def personavec_begin(self, tensors: bytes, layers: list[int]) -> None:
        """Take the `table` to steer with, and the `unit` directions to project on at `layers`."""
        self._personavec.begin(load(tensors), layers)

    def personavec_take(self, ids: list[str]) -> bytes:
        """The results of requests that have ended, then gone, as safetensors; none on a worker that
        reads nothing."""
        return self._personavec.take(ids)

    def personavec_peek(self, ids: list[str]) -> bytes:
        """The results of requests so far, which stay."""
        return self._personavec.peek(ids)


class Residual:
    """Hooks on the blocks of one worker, and what they have summed.

    `blocks` by layer, counted from 1; `reads` is False where another worker reads the same layers;
    `serves` says whether the forward under way is of requests.
    """

    def __init__(
        self,
        runner: Any,
        blocks: Mapping[int, torch.nn.Module],
        *,
        reads: bool,
        serves: Callable[[], bool],
    ):
        self.runner, self.reads, self.serves = runner, reads, serves
        first = min(blocks)
        #: The first stage of a pipeline has the embedding too.
        self.layers = ([0] if first == 1 else []) + sorted(blocks)
        self._next = 0
        self._table = self._unit = torch.empty(0)
        self._step = _Step(self._table)
        self._columns: dict[int, list[int]] = {}
        self._sums = torch.empty(0)
        self._slots: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._projections: dict[str, list[Tensor]] = {}
        self._own: dict[str, dict[str, Tensor]] = {}
        #: By request: could every token be chosen? None where no logits were looked at.
        self._sound: dict[str, bool | None] = {}
        self._looked: tuple[list[str | None], Tensor] | None = None
        parameter = next(blocks[first].parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        blocks[first].register_forward_pre_hook(self._before_first, with_kwargs=True)
        for layer, block in sorted(blocks.items()):
            block.register_forward_hook(self._after(layer))

    def begin(self, tensors: Mapping[str, Tensor], layers: Sequence[int]) -> None:
        """Forget all requests; take what the next ones are steered with and projected on."""
        self._table = tensors["table"].to(self._device, self._dtype)
        self._unit = tensors["unit"].to(self._device)
        self._columns = {
            layer: [i for i, own in enumerate(layers) if own == layer]
            for layer in set(layers) & set(self.layers)
        }
        self._slots, self._counts, self._projections, self._own = {}, {}, {}, {}
        self._sound, self._looked = {}, None

    def take(self, ids: Sequence[str]) -> bytes:
        """`peek`, after which nothing of these requests is left."""
        found = self.peek(ids)
        for name in ids:
            for kept in (self._slots, self._counts, self._projections, self._own, self._sound):
                kept.pop(name, None)
        return found

    def peek(self, ids: Sequence[str]) -> bytes:
        """Sums [layer, span, hidden] and projections [token, direction] of requests, and whether
        their logits were sound."""
        if self._next not in (0, len(self.layers)):
            raise RuntimeError(f"the last forward ended before layer {self.layers[self._next]}")
        if not self.reads:
            return b""
        self._settle()
        out: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        sound: dict[str, bool] = {}
        for number, name in enumerate(ids):
            if (slot := self._slots.get(name)) is not None:
                rows = slice(slot * _SPANS, (slot + 1) * _SPANS)
                out[f"sums {number}"] = self._sums[:, rows].cpu().contiguous()
                counts[str(number)] = self._counts[name]
            if found := self._projections.get(name):
                out[f"projections {number}"] = torch.cat(found)
            if (whole := self._sound.get(name)) is not None:
                sound[str(number)] = whole
        return save(out, {"counts": json.dumps(counts), "sound": json.dumps(sound)})

    # A forward

    def _before_first(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Plan the forward that begins, and read the embedding, the first block's input."""
        if self._next not in (0, len(self.layers)):
            raise RuntimeError(f"the last forward ended before layer {self.layers[self._next]}")
        self._settle()
        self._step = self._plan()
        self._next = 0
        if self.layers[0] == 0:
            # vLLM's blocks take positions first; their states come without a residual here.
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[1]
            self._read(0, hidden)

    def _after(self, layer: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            # Most of vLLM's blocks return the stream as two halves, which their next norm adds.
            hidden, residual = output if isinstance(output, tuple) else (output, None)
            if layer in self._step.additions:
                tokens, rows = self._step.additions[layer]
                hidden = hidden.index_add(0, tokens, self._step.table[rows])
            for caps in self._step.caps.get(layer, ()):
                hidden = caps.apply(hidden, residual)
            self._read(layer, hidden if residual is None else hidden + residual)
            return (hidden, residual) if isinstance(output, tuple) else hidden

        return hook

    def _read(self, layer: int, stream: Tensor) -> None:
        if self._next == len(self.layers) or self.layers[self._next] != layer:
            raise RuntimeError(f"a forward came to layer {layer} out of order")
        slot, self._next = self._next, self._next + 1
        if self._step.read is not None:
            tokens, rows, weights = self._step.read
            self._sums[slot].index_add_(0, rows, stream[tokens].float() * weights)
        if self._step.projected and layer in self._columns:
            columns, chosen = self._columns[layer], self._step.chosen
            own = stream if chosen is None else stream[chosen]
            values = (own.float() @ self._unit[columns].T).cpu()
            for name, start, stop in self._step.projected:
                self._projections[name][-1][:, columns] = values[start:stop]

    # Its logits

    def look_at(self, logits: Tensor | None) -> None:
        """Take in a forward's logits, a row a request, where this worker has them."""
        names, self._step.names = self._step.names, []
        if logits is None or not names or not self.reads:
            return
        if len(logits) != len(names):
            raise RuntimeError(f"{len(names)} requests, but logits for {len(logits)}")
        # Read later: here the processor would wait for the accelerator.
        self._looked = names, usable(logits)

    def _settle(self) -> None:
        """Note down what the last logits were."""
        if self._looked is None:
            return
        names, rows = self._looked
        self._looked = None
        for name, sound in zip(names, rows.tolist(), strict=True):
            # Of a request that was taken before its end, a last forward may be under way.
            if name in self._sound:
                self._sound[name] = sound and self._sound[name] is not False

    def _plan(self) -> _Step:
        """What the next forward's tokens are to be steered by and counted in.

        Tokens are told by their absolute position, so that a prompt in pieces, or a request that
        was set back and is computed again, gives what an undisturbed one gives.
        """
        step = _Step(self._table)
        batch = self.runner.input_batch
        if not self.serves():
            return step
        starts = self.runner.query_start_loc.np
        tables, n_rows = [self._table], len(self._table)
        steered: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {}
        capped: dict[tuple[int, int], list[tuple[np.ndarray, Tensor, float]]] = {}
        projected: list[np.ndarray] = []
        n_projected = 0
        tokens: list[np.ndarray] = []
        rows: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        for i in range(batch.num_reqs):
            note = self._note(batch.req_ids[i])
            step.names.append(None if note is None else note["id"])
            if note is None:
                continue
            start, stop = int(starts[i]), int(starts[i + 1])
            first = int(batch.num_computed_tokens_cpu[i])
            prompt, end = note["prompt"], first + stop - start
            if first == 0:
                self._sound.setdefault(note["id"], None)
            base = 0
            if note["own"] is not None:
                own = self._own_of(note, anew=first == 0)
                if own is None:
                    continue
                base = n_rows
                tables.append(own["table"])
                n_rows += len(own["table"])
                for number, (layer, row, ceiling, kind) in enumerate(note["cap"]):
                    low, high = steered_positions(kind, prompt)
                    where = _tokens(start, first, end, low, high)
                    if len(where):
                        together = capped.setdefault((layer, number), [])
                        together.append((where, own["units"][row], ceiling))
            for layer, row, kind in note["steer"]:
                low, high = steered_positions(kind, prompt)
                where = _tokens(start, first, end, low, high)
                if len(where):
                    of_layer = steered.setdefault(layer, ([], []))
                    of_layer[0].append(where)
                    of_layer[1].append(np.full(len(where), base + row))
            if note["response"] is not None and self.reads:
                base = self._slot(note["id"], anew=first == 0) * _SPANS
                low, high = note["response"]
                spans = ((low, high, 1.0), (0, prompt, 1 / prompt), (prompt - 1, prompt, 1.0))
                for span, (low, high, weight) in enumerate(spans):
                    where = _tokens(start, first, end, low, high)
                    tokens.append(where)
                    rows.append(np.full(len(where), base + span))
                    weights.append(np.full(len(where), weight, np.float32))
                self._counts[note["id"]] += len(tokens[-_SPANS])
            if note["project"] is not None and self.reads:
                if first == 0:
                    self._projections[note["id"]] = []
                where = _tokens(start, first, end, note["project"], None)
                # Of a request that was taken before its end, a last forward may be under way.
                if len(where) and note["id"] in self._projections:
                    found = torch.zeros(len(where), len(self._unit))
                    self._projections[note["id"]].append(found)
                    step.projected.append((note["id"], n_projected, n_projected + len(where)))
                    projected.append(where)
                    n_projected += len(where)
        if len(tables) > 1:
            step.table = torch.cat(tables)
        step.additions = {
            layer: (self._here(where), self._here(which))
            for layer, (where, which) in steered.items()
        }
        if tokens:
            step.read = (self._here(tokens), self._here(rows), self._here(weights)[:, None])
        for (layer, _), together in sorted(capped.items(), key=lambda item: item[0]):
            step.caps.setdefault(layer, []).append(self._caps(together))
        if projected and n_projected < int(starts[batch.num_reqs]):
            step.chosen = self._here(projected)
        return step

    def _own_of(self, note: Mapping[str, Any], *, anew: bool) -> dict[str, Tensor] | None:
        """What a request alone is acted on with, unpacked when its first token comes.

        None for a request that was taken before its end, of which a last forward is under way.
        """
        if anew:
            found = load(note["own"])
            self._own[note["id"]] = {
                "table": found["table"].to(self._device, self._dtype),
                "units": found["units"].to(self._device),
            }
        return self._own.get(note["id"])

    def _caps(self, together: Sequence[tuple[np.ndarray, Tensor, float]]) -> _Caps:
        return _Caps(
            self._here([where for where, _, _ in together]),
            torch.cat([unit.expand(len(where), -1) for where, unit, _ in together]),
            self._here([np.full(len(where), at, np.float32) for where, _, at in together]),
        )

    def _note(self, request: str) -> dict[str, Any] | None:
        extra = self.runner.requests[request].sampling_params.extra_args
        return extra.get(NOTE) if extra else None

    def _slot(self, name: str, *, anew: bool) -> int:
        """A request's place in the sums, empty when its first token comes."""
        if name not in self._slots:
            taken = set(self._slots.values())
            free = (i for i in range(len(taken) + 1) if i not in taken)
            self._slots[name] = next(free)
            self._make_room(self._slots[name])
            anew = True
        slot = self._slots[name]
        if anew:
            self._sums[:, slot * _SPANS : (slot + 1) * _SPANS] = 0
            self._counts[name] = 0
        return slot

    def _make_room(self, slot: int) -> None:
        have = self._sums.shape[1] if self._sums.dim() == 3 else 0
        if (slot + 1) * _SPANS <= have:
            return
        hidden = self.runner.model_config.get_hidden_size()
        shape = (len(self.layers), max(64 * _SPANS, 2 * have), hidden)
        wider = torch.zeros(shape, device=self._device)
        if have:
            wider[:, :have] = self._sums
        self._sums = wider

    def _here(self, pieces: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(pieces)).to(self._device, non_blocking=True)


def steered_positions(kind: str, prompt: int) -> tuple[int, int | None]:
    """The absolute positions [from, to) that a kind of steering acts at; None for all that come."""
    match kind:
        case "response":
            return prompt - 1, None
        case "prompt":
            return 0, prompt
        case "all":
            return 0, None
    raise ValueError(f"no such positions: {kind}")


def _tokens(start: int, first: int, end: int, low: int, high: int | None) -> np.ndarray:
    """Which tokens of a batch stand at positions [low, high).

    The request's tokens begin at `start`, and stand at positions [first, end).
    """
    low, high = max(low, first), end if high is None else min(high, end)
    return np.arange(start + low - first, start + max(low, high) - first)
