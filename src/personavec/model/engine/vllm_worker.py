"""Steering and capture inside vLLM's workers, for all requests of a step at once.

`Extension` is a worker extension of vLLM. It finds the decoder layers (`vllm_blocks`) on every
architecture and pipeline stage, and puts hooks on them (`vllm_hooks`), before the model runs or is
compiled. Each step is planned once (`vllm_plan`), each layer needs one addition, and an error ends
the run.

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

from personavec.model.engine.base import SPANS
from personavec.model.engine.sampling import usable
from personavec.model.engine.vllm_blocks import own_blocks
from personavec.model.engine.vllm_hooks import VISIT, put_hooks, visit
from personavec.model.engine.vllm_note import NOTE, OwnTensors, RequestNote
from personavec.model.engine.vllm_plan import PlanBuilder, StepPiece, StepPlan
from personavec.model.engine.vllm_reading import BlockSum, Reading, Sums


class Extension:
    """Mixed into vLLM's worker; the engine calls its methods by name."""

    vllm_config: Any  # an attribute of vLLM's worker
    _personavec: Residual
    _personavec_error: RuntimeError | None = None

    @property
    def model_runner(self) -> Any:
        """The worker's model runner, as vLLM sets it."""
        return vars(self)["model_runner"]

    @model_runner.setter
    def model_runner(self, runner: Any) -> None:
        vars(self)["model_runner"] = runner
        if runner is None:
            return
        load = runner.load_model

        def load_model(*args: Any, **kwargs: Any) -> None:
            # Between loading and the first pass, in which a compiled model is traced.
            load(*args, **kwargs)
            self._personavec_hook()

        runner.load_model = load_model

    def _personavec_hook(self) -> None:
        """Put hooks on this worker's layers; what fails is raised by `personavec_install`."""
        from vllm.distributed import parallel_state  # pyright: ignore[reportMissingImports]
        from vllm.forward_context import get_forward_context  # pyright: ignore[reportMissingImports]

        model = self.model_runner.get_model()
        try:
            found = own_blocks(model, self.vllm_config)
        except RuntimeError as error:
            self._personavec_error = error
            return
        blocks = {i + 1: block for i, block in found.items()}
        residual = self._personavec = Residual(
            self.model_runner,
            blocks,
            reads=parallel_state.get_tensor_model_parallel_rank() == 0,
            # vLLM also runs forward passes without requests, for example to measure memory.
            serves=lambda: get_forward_context().attn_metadata is not None,
        )
        self.vllm_config.compilation_config.static_forward_context[VISIT] = residual.visit
        put_hooks(blocks, visit)
        compute = model.compute_logits

        def compute_logits(*args: Any, **kwargs: Any) -> Any:
            logits = compute(*args, **kwargs)
            residual.check_logits(logits)
            return logits

        model.compute_logits = compute_logits

    def personavec_install(self) -> list[int]:
        """The layers of this worker (0 is the embedding), on which there are hooks."""
        if self._personavec_error is not None:
            raise self._personavec_error
        self._personavec.block_size = self.personavec_block()
        return list(self._personavec.layers)

    def personavec_compiled(self) -> bool:
        """Whether the model, or a part of it, runs as a compiled graph."""
        modules = self.model_runner.get_model().modules()
        return any(getattr(module, "do_not_compile", True) is False for module in modules)

    def personavec_block(self) -> int:
        """The number of tokens in a block of the prefix cache."""
        from vllm.v1.core.kv_cache_utils import (  # pyright: ignore[reportMissingImports]
            resolve_kv_cache_block_sizes,
        )

        config = self.model_runner.kv_cache_config
        return resolve_kv_cache_block_sizes(config, self.vllm_config)[1]

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
    layers. `serves` says whether the current forward pass runs requests. `block_size` is the number
    of tokens in a block of vLLM's prefix cache, which is known once requests come.
    """

    def __init__(
        self,
        runner: Any,
        blocks: Mapping[int, torch.nn.Module],
        *,
        reads: bool,
        serves: Callable[[], bool],
        block_size: int = 0,
    ):
        self.runner, self.reads, self.serves, self.block_size = runner, reads, serves, block_size
        first = self._first = min(blocks)
        #: The first stage of a pipeline also has the embedding, layer 0.
        self.layers = ([0] if first == 1 else []) + sorted(blocks)
        self._next = 0
        self._table = self._unit = torch.empty(0)
        self._step = StepPlan(self._table)
        self._columns: dict[int, list[int]] = {}
        parameter = next(blocks[first].parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._sums = Sums(len(self.layers), 0, self._device)
        self._readings: dict[str, Reading] = {}
        #: Requests that were taken, by vLLM's name, until vLLM's runner forgets them.
        self._left: dict[str, Reading] = {}
        #: Sums over blocks that prompts share, by the numbers in `RequestNote.beginning`.
        self._blocks: dict[int, BlockSum] = {}
        #: Requests, and whether their last logits were usable [request]; not yet in `_readings`.
        self._unsettled: tuple[list[Reading | None], Tensor] | None = None

    def begin(self, tensors: Mapping[str, Tensor], layers: Sequence[int]) -> None:
        """Forget all requests, and set the table and directions for the next ones."""
        self._table = tensors["table"].to(self._device, self._dtype)
        self._unit = tensors["unit"].to(self._device)
        self._columns = {
            layer: [i for i, own in enumerate(layers) if own == layer]
            for layer in set(layers) & set(self.layers)
        }
        self._left |= {reading.request: reading for reading in self._readings.values()}
        self._readings, self._blocks, self._unsettled = {}, {}, None
        hidden = self.runner.model_config.get_hidden_size()
        self._sums = Sums(len(self.layers), hidden, self._device)

    def take(self, ids: Sequence[str]) -> bytes:
        """What was read of requests, their sums [layer, span, hidden] too; forgets them then."""
        found = self._packed(ids, sums=True)
        for name in ids:
            if (reading := self._readings.pop(name, None)) is not None:
                self._left[reading.request] = reading
                self._sums.give_back(reading.rows)
        return found

    def peek(self, ids: Sequence[str]) -> bytes:
        """The running requests' projections [token, direction] and soundness."""
        return self._packed(ids, sums=False)

    def _packed(self, ids: Sequence[str], *, sums: bool) -> bytes:
        """Sums, if wanted, projections and soundness of requests.

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
            if (reading := self._readings.get(name)) is None:
                continue
            if sums and reading.rows:
                out[f"sums {number}"] = self._summed(reading).cpu().contiguous()
                counts[str(number)] = reading.count
            if reading.projections:
                out[f"projections {number}"] = torch.cat(reading.projections)
            if reading.sound is not None:
                sound[str(number)] = reading.sound
        return save(out, {"counts": json.dumps(counts), "sound": json.dumps(sound)})

    def _summed(self, reading: Reading) -> Tensor:
        """A request's sums, with those of the blocks that it took from the prefix cache."""
        sums = self._sums.of(reading.rows)
        cached = reading.note["beginning"][: reading.start // self.block_size]
        blocks = [self._blocks[number] for number in cached if number in self._blocks]
        ends = (block.until == (i + 1) * self.block_size for i, block in enumerate(blocks))
        if len(blocks) < len(cached) or not all(ends):
            raise RuntimeError(f"a cached block of request {reading.note['id']} was not captured")
        if blocks:
            shared = self._sums.of([block.row for block in blocks]).sum(1)
            sums[:, SPANS.index("prompt_mean")] += shared / reading.note["prompt"]
        return sums

    # Forward pass

    def visit(self, hidden: Tensor, residual: Tensor | None, layer: int) -> None:
        """Act on a layer's tokens in place, and read them; see `vllm_hooks.put_hooks`."""
        if layer < self._first:
            self._begin_pass()
            if layer in self.layers:
                self._read(layer, hidden)
            return
        if layer in self._step.additions:
            tokens, rows = self._step.additions[layer]
            hidden.index_add_(0, tokens, self._step.table[rows])
        for caps in self._step.caps.get(layer, ()):
            caps.apply(hidden, residual)
        self._read(layer, hidden if residual is None else hidden + residual)

    def _begin_pass(self) -> None:
        """Plan the forward pass that begins."""
        if self._next not in (0, len(self.layers)):
            raise RuntimeError(f"the last forward ended before layer {self.layers[self._next]}")
        self._settle()
        self._step = self._plan()
        self._next = 0

    def _read(self, layer: int, stream: Tensor) -> None:
        if self._next == len(self.layers) or self.layers[self._next] != layer:
            raise RuntimeError(f"a forward came to layer {layer} out of order")
        slot, self._next = self._next, self._next + 1
        if self._step.captured is not None:
            tokens, rows, weights = self._step.captured
            self._sums.add(slot, rows, stream[tokens].float() * weights)
        if self._step.projected and layer in self._columns:
            columns, chosen = self._columns[layer], self._step.chosen
            own = stream if chosen is None else stream[chosen]
            values = (own.float() @ self._unit[columns].T).cpu()
            for projections, start, stop in self._step.projected:
                projections[:, columns] = values[start:stop]

    # Logits

    def check_logits(self, logits: Tensor | None) -> None:
        """Check whether the logits [request, token] are usable; None if this worker has none."""
        readings, self._step.readings = self._step.readings, []
        if logits is None or not readings or not self.reads:
            return
        if len(logits) != len(readings):
            raise RuntimeError(f"{len(readings)} requests, but logits for {len(logits)}")
        # Copied to the CPU later, since it would have to wait for the GPU here.
        self._unsettled = readings, usable(logits)

    def _settle(self) -> None:
        """Record whether the last logits were usable."""
        if self._unsettled is None:
            return
        readings, rows = self._unsettled
        self._unsettled = None
        for reading, sound in zip(readings, rows.tolist(), strict=True):
            if reading is not None:
                reading.sound = sound and reading.sound is not False

    # Planning

    def _plan(self) -> StepPlan:
        """The plan for the next forward pass."""
        if not self.serves():
            return StepPlan(self._table)
        if self._left:
            self._left = {n: left for n, left in self._left.items() if n in self.runner.requests}
        builder = PlanBuilder(self._table, len(self._unit))
        for request, piece in self._pieces():
            if piece is None:
                builder.append(None)
                continue
            # A request that was taken before its end may have one more pass, which is not read.
            left = self._left.get(request)
            reading = left or self._reading(request, piece.note)
            builder.append(reading)
            builder.act(piece, reading.own)
            if left is None and self.reads:
                self._read_piece(builder, piece, reading)
        n_tokens = int(self.runner.query_start_loc.np[self.runner.input_batch.num_reqs])
        return builder.plan(n_tokens, self._device)

    def _pieces(self) -> Iterator[tuple[str, StepPiece | None]]:
        """The next pass's requests, by vLLM's name, with their tokens; None without a note."""
        batch, starts = self.runner.input_batch, self.runner.query_start_loc.np
        for i in range(batch.num_reqs):
            request = batch.req_ids[i]
            extra = self.runner.requests[request].sampling_params.extra_args
            note = extra.get(NOTE) if extra else None
            if note is None:
                yield request, None
                continue
            start, stop = int(starts[i]), int(starts[i + 1])
            first = int(batch.num_computed_tokens_cpu[i])
            yield request, StepPiece(note, start, first, first + stop - start)

    def _reading(self, request: str, note: RequestNote) -> Reading:
        """The reading of a request; its own tensors are unpacked when its first token runs."""
        found = self._readings.get(note["id"])
        if found is not None and found.request == request:
            return found
        own = None
        if note["own"] is not None:
            packed = OwnTensors.unpacked(note["own"])
            table = packed.table.to(self._device, self._dtype)
            own = OwnTensors(table, packed.units.to(self._device))
        found = self._readings[note["id"]] = Reading(request, note, own)
        return found

    def _read_piece(self, builder: PlanBuilder, piece: StepPiece, reading: Reading) -> None:
        """Capture and project the tokens of a piece that were not read before."""
        note = piece.note
        if note["response"] is not None:
            reading.rows = reading.rows or self._sums.take(len(SPANS))
            if piece.first > reading.until:
                self._skip_cached(piece, reading)
            reading.count += builder.capture(piece, reading, note["response"])
            self._capture_blocks(builder, piece)
        if note["project"] is not None:
            if piece.first > max(note["project"], reading.until):
                raise RuntimeError(f"tokens of request {note['id']} came from the prefix cache")
            values = builder.project(piece, max(note["project"], reading.until))
            if values is not None:
                reading.projections.append(values)
        reading.until = max(reading.until, piece.end)

    def _skip_cached(self, piece: StepPiece, reading: Reading) -> None:
        """Start reading a request after the blocks that it took from the prefix cache."""
        blocks, rest = divmod(piece.first, self.block_size)
        if rest or blocks > len(piece.note["beginning"]):
            raise RuntimeError(f"a cached block of request {piece.note['id']} was not captured")
        self._sums.clear(reading.rows)
        reading.start = reading.until = piece.first
        reading.count = 0

    def _capture_blocks(self, builder: PlanBuilder, piece: StepPiece) -> None:
        """Capture blocks that other prompts may take from the prefix cache."""
        numbers = piece.note["beginning"]
        for place in range(piece.first // self.block_size, len(numbers)):
            if place * self.block_size >= piece.end:
                break
            if numbers[place] not in self._blocks:
                (row,) = self._sums.take(1)
                self._blocks[numbers[place]] = BlockSum(row, place * self.block_size)
            block = self._blocks[numbers[place]]
            builder.capture_block(piece, block, (place + 1) * self.block_size)
