"""Steering and capture inside vLLM's workers, for all requests of a step at once.

`Extension` is a worker extension of vLLM. It finds the decoder layers with the vllm-lens plugin, on
every architecture and pipeline stage, and puts its own hooks on them. The plugin's own steering and
hooks are not used, because they call a Python function for every request at every layer, also steer
prompt tokens, lose absolute positions while decoding, and go on after an error. Here each step is
planned once (`vllm_plan`), each layer needs one addition, and an error ends the run.

The note of each request (`vllm_note`) says how to steer it and what to read. Tensors are exchanged
as safetensors; nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from personavec.model.engine.sampling import usable
from personavec.model.engine.vllm_note import NOTE, OwnTensors, RequestNote
from personavec.model.engine.vllm_plan import N_SPANS, PlanBuilder, StepPiece, StepPlan


class Extension:
    """Mixed into vLLM's worker; the engine calls its methods by name."""

    model_runner: Any  # an attribute of vLLM's worker

    def personavec_install(self) -> list[int]:
        """Put hooks on this worker's layers; returns the layers (0 is the embedding)."""
        # `_discover_layer_modules` is private, so check it with each version of the plugin.
        from vllm.distributed import parallel_state  # pyright: ignore[reportMissingImports]
        from vllm.forward_context import get_forward_context  # pyright: ignore[reportMissingImports]
        from vllm_lens._worker_ext import _discover_layer_modules

        self._personavec = Residual(
            self.model_runner,
            {i + 1: block for i, block in _discover_layer_modules(self).items()},
            reads=parallel_state.get_tensor_model_parallel_rank() == 0,
            # vLLM also runs forward passes without requests, for example to measure memory.
            serves=lambda: get_forward_context().attn_metadata is not None,
        )
        model = self.model_runner.model
        compute = model.compute_logits

        def compute_logits(*args: Any, **kwargs: Any) -> Any:
            logits = compute(*args, **kwargs)
            self._personavec.check_logits(logits)
            return logits

        model.compute_logits = compute_logits
        return list(self._personavec.layers)

    def personavec_begin(self, tensors: bytes, layers: list[int]) -> None:
        """Set the steering `table` [row, hidden] and the `unit` directions, read at `layers`."""
        self._personavec.begin(load(tensors), layers)

    def personavec_take(self, ids: list[str]) -> bytes:
        """Fetch and forget the results of requests, as safetensors (see `Residual.peek`)."""
        return self._personavec.take(ids)

    def personavec_peek(self, ids: list[str]) -> bytes:
        """The results of requests so far, which are not forgotten."""
        return self._personavec.peek(ids)


class Residual:
    """The hooks on one worker's blocks, and the activations that they read.

    `blocks` maps layers, from 1 on, to modules. `reads` is False if another worker reads the same
    layers. `serves` says whether the current forward pass runs requests.
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
        #: The first stage of a pipeline also has the embedding, layer 0.
        self.layers = ([0] if first == 1 else []) + sorted(blocks)
        self._next = 0
        self._table = self._unit = torch.empty(0)
        self._step = StepPlan(self._table)
        self._columns: dict[int, list[int]] = {}
        self._sums = torch.empty(0)
        self._slots: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._projections: dict[str, list[Tensor]] = {}
        self._own: dict[str, OwnTensors] = {}
        #: By request: whether all logits so far were usable. None before the first logits.
        self._sound: dict[str, bool | None] = {}
        #: Requests, and whether their last logits were usable [request]; not yet in `_sound`.
        self._unsettled: tuple[list[str | None], Tensor] | None = None
        parameter = next(blocks[first].parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        blocks[first].register_forward_pre_hook(self._before_first, with_kwargs=True)
        for layer, block in sorted(blocks.items()):
            block.register_forward_hook(self._after(layer))

    def begin(self, tensors: Mapping[str, Tensor], layers: Sequence[int]) -> None:
        """Forget all requests, and set the table and directions for the next ones."""
        self._table = tensors["table"].to(self._device, self._dtype)
        self._unit = tensors["unit"].to(self._device)
        self._columns = {
            layer: [i for i, own in enumerate(layers) if own == layer]
            for layer in set(layers) & set(self.layers)
        }
        self._slots, self._counts, self._projections, self._own = {}, {}, {}, {}
        self._sound, self._unsettled = {}, None

    def take(self, ids: Sequence[str]) -> bytes:
        """`peek`, and then forget the requests."""
        found = self.peek(ids)
        for name in ids:
            for kept in (self._slots, self._counts, self._projections, self._own, self._sound):
                kept.pop(name, None)
        return found

    def peek(self, ids: Sequence[str]) -> bytes:
        """The requests' sums [layer, span, hidden], projections [token, direction] and soundness.

        A request is sound if all its logits were usable. Packed as safetensors; empty if this
        worker does not read.
        """
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
                rows = slice(slot * N_SPANS, (slot + 1) * N_SPANS)
                out[f"sums {number}"] = self._sums[:, rows].cpu().contiguous()
                counts[str(number)] = self._counts[name]
            if found := self._projections.get(name):
                out[f"projections {number}"] = torch.cat(found)
            if (whole := self._sound.get(name)) is not None:
                sound[str(number)] = whole
        return save(out, {"counts": json.dumps(counts), "sound": json.dumps(sound)})

    # Forward pass

    def _before_first(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Plan the forward pass that begins, and read the embedding, the first block's input."""
        if self._next not in (0, len(self.layers)):
            raise RuntimeError(f"the last forward ended before layer {self.layers[self._next]}")
        self._settle()
        self._step = self._plan()
        self._next = 0
        if self.layers[0] == 0:
            # The first argument of vLLM's blocks is positions; the first block has no residual.
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[1]
            self._read(0, hidden)

    def _after(self, layer: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            # Most of vLLM's blocks return the stream as two summands, which the next norm adds.
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
        if self._step.captured is not None:
            tokens, rows, weights = self._step.captured
            self._sums[slot].index_add_(0, rows, stream[tokens].float() * weights)
        if self._step.projected and layer in self._columns:
            columns, chosen = self._columns[layer], self._step.chosen
            own = stream if chosen is None else stream[chosen]
            values = (own.float() @ self._unit[columns].T).cpu()
            for name, start, stop in self._step.projected:
                self._projections[name][-1][:, columns] = values[start:stop]

    # Logits

    def check_logits(self, logits: Tensor | None) -> None:
        """Check whether the logits [request, token] are usable; None if this worker has none."""
        names, self._step.names = self._step.names, []
        if logits is None or not names or not self.reads:
            return
        if len(logits) != len(names):
            raise RuntimeError(f"{len(names)} requests, but logits for {len(logits)}")
        # Copied to the CPU later, since it would have to wait for the GPU here.
        self._unsettled = names, usable(logits)

    def _settle(self) -> None:
        """Record whether the last logits were usable."""
        if self._unsettled is None:
            return
        names, rows = self._unsettled
        self._unsettled = None
        for name, sound in zip(names, rows.tolist(), strict=True):
            # A request that was taken before its end may have one more pass, which is ignored.
            if name in self._sound:
                self._sound[name] = sound and self._sound[name] is not False

    def _plan(self) -> StepPlan:
        """The plan for the next forward pass."""
        if not self.serves():
            return StepPlan(self._table)
        builder = PlanBuilder(self._table, len(self._unit))
        for piece in self._pieces():
            builder.name(piece and piece.note["id"])
            if piece is None:
                continue
            id, note = piece.note["id"], piece.note
            if piece.restarts:
                self._sound.setdefault(id, None)
            own = self._own_of(piece)
            if note["own"] is not None and own is None:
                continue
            builder.act(piece, own)
            if note["response"] is not None and self.reads:
                slot = self._slot(id, restarts=piece.restarts)
                self._counts[id] += builder.capture(piece, note["response"], slot)
            if note["project"] is not None and self.reads:
                self._project(builder, piece, note["project"])
        n_tokens = int(self.runner.query_start_loc.np[self.runner.input_batch.num_reqs])
        return builder.plan(n_tokens, self._device)

    def _pieces(self) -> Iterator[StepPiece | None]:
        """Each request's tokens in the next forward pass; None for a request without a note."""
        batch, starts = self.runner.input_batch, self.runner.query_start_loc.np
        for i in range(batch.num_reqs):
            note = self._note(batch.req_ids[i])
            if note is None:
                yield None
                continue
            start, stop = int(starts[i]), int(starts[i + 1])
            first = int(batch.num_computed_tokens_cpu[i])
            yield StepPiece(note, start, first, first + stop - start)

    def _project(self, builder: PlanBuilder, piece: StepPiece, first: int) -> None:
        id = piece.note["id"]
        if piece.restarts:
            self._projections[id] = []
        # A request that was taken before its end may have one more pass, which is ignored.
        if id in self._projections:
            values = builder.project(piece, first)
            if values is not None:
                self._projections[id].append(values)

    def _own_of(self, piece: StepPiece) -> OwnTensors | None:
        """A request's own tensors, which are unpacked when its first token runs.

        None if it has none, and for a request that was taken before its end.
        """
        note = piece.note
        if note["own"] is None:
            return None
        if piece.restarts:
            found = OwnTensors.unpacked(note["own"])
            self._own[note["id"]] = OwnTensors(
                found.table.to(self._device, self._dtype), found.units.to(self._device)
            )
        return self._own.get(note["id"])

    def _note(self, request: str) -> RequestNote | None:
        extra = self.runner.requests[request].sampling_params.extra_args
        return extra.get(NOTE) if extra else None

    def _slot(self, name: str, *, restarts: bool) -> int:
        """A request's slot in the sums, which is set to zero if the request restarts."""
        if name not in self._slots:
            taken = set(self._slots.values())
            free = (i for i in range(len(taken) + 1) if i not in taken)
            self._slots[name] = next(free)
            self._make_room(self._slots[name])
            restarts = True
        slot = self._slots[name]
        if restarts:
            self._sums[:, slot * N_SPANS : (slot + 1) * N_SPANS] = 0
            self._counts[name] = 0
        return slot

    def _make_room(self, slot: int) -> None:
        have = self._sums.shape[1] if self._sums.dim() == 3 else 0
        if (slot + 1) * N_SPANS <= have:
            return
        hidden = self.runner.model_config.get_hidden_size()
        shape = (len(self.layers), max(64 * N_SPANS, 2 * have), hidden)
        wider = torch.zeros(shape, device=self._device)
        if have:
            wider[:, :have] = self._sums
        self._sums = wider
