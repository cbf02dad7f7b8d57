"""Batched generation with a transformers model, with steering per row and capture.

A planned batch is decoded with one preallocated key-value cache until its last row has ended.
Activations are summed while tokens are decoded, so capture needs no second pass over the text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache, StaticCache

from personavec.model import (
    Directions,
    LoadedModel,
    SpanSums,
    SteeringBatch,
    Thought,
    TokenIds,
    batches_under_budget,
    find_blocks,
    padded,
    project_tokens,
    recording,
    steering_rows,
)
from personavec.model.engine.base import (
    SPANS,
    EngineRecord,
    Generation,
    Request,
    Sampling,
    check_room,
    stopping_if_all_fail,
)
from personavec.model.engine.sampling import Draw, choose, usable

#: Model types with ALiBi, whose position biases are as wide as the attention mask. They cannot use
#: a preallocated cache.
_ALIBI = frozenset({"bloom", "falcon", "mpt"})


@dataclass(frozen=True, eq=False)
class TransformersEngine:
    """The engine of a transformers model in this process (`base.Engine`)."""

    loaded: LoadedModel
    batch_tokens: int = 16384
    name: str = "transformers"

    def describe(self) -> EngineRecord:
        return {"name": self.name, "version": transformers.__version__}

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        capture: bool = False,
        include_thinking: bool = False,
        done: Collection[str] = (),
    ) -> Iterator[list[Generation]]:
        return generate(
            self.loaded,
            requests,
            sampling,
            capture=capture,
            include_thinking=include_thinking,
            done=done,
            batch_tokens=self.batch_tokens,
        )

    def project(
        self, texts: Sequence[TokenIds], directions: Directions, *, batch_tokens: int | None = None
    ) -> list[Tensor]:
        return project_tokens(self.loaded.model, texts, directions, batch_tokens=batch_tokens)


def plan(requests: Sequence[Request], sampling: Sampling, batch_tokens: int) -> list[list[Request]]:
    """Group requests deterministically into batches within a budget of prompt and new tokens."""
    lengths = [len(request.prompt_ids) + sampling.max_tokens for request in requests]
    return [[requests[i] for i in batch] for batch in batches_under_budget(lengths, batch_tokens)]


def generate(
    loaded: LoadedModel,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    capture: bool = False,
    include_thinking: bool = False,
    done: Collection[str] = (),
    batch_tokens: int = 16384,
) -> Iterator[list[Generation]]:
    """Generate responses; yields the planned batches one after the other.

    Batches are planned over all requests, including those in `done`, so that a resumed run forms
    the same batches as an uninterrupted one. A batch is skipped if all its requests are done.
    Sampling noise depends on (seed, request, step), so other rows of a batch affect a response only
    through rounding. Raises UsageError if a prompt leaves no room for a response in the model's
    context, and ActivationError as `base.Engine.generate` does.
    """
    check_room(requests, sampling.max_tokens, loaded.context)
    batches = (
        batch
        for batch in plan(requests, sampling, batch_tokens)
        if not all(request.id in done for request in batch)
    )
    groups = (
        generate_batch(loaded, batch, sampling, capture=capture, include_thinking=include_thinking)
        for batch in batches
    )
    yield from stopping_if_all_fail(loaded.identity, requests, groups)


@dataclass(eq=False)
class _BatchRows:
    """The state of a planned batch while it is decoded; arrays are [row]."""

    requests: Sequence[Request]
    sampling: Sampling
    stops: Int[Tensor, " stop"]
    thoughts: list[Thought]
    """One for every row; empty if the model does not think."""
    include_thinking: bool
    responses: list[list[int]]
    alive: np.ndarray
    """Whether a row still gets tokens."""
    failed: np.ndarray
    """Whether a row's logits or means were NaN or infinite."""
    finished: np.ndarray
    """Whether a row ended with an end-of-turn token."""
    counted: np.ndarray
    """Whether a row's latest token is part of the response mean."""
    answering: list[int] = field(default_factory=list)
    """Rows whose latest token ended their thought, or is white space right after it."""

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        batch: Sequence[Request],
        sampling: Sampling,
        *,
        include_thinking: bool,
    ) -> _BatchRows:
        return cls(
            requests=batch,
            sampling=sampling,
            stops=torch.tensor(sorted(loaded.stop_ids)),
            thoughts=_thoughts(loaded, batch),
            include_thinking=include_thinking,
            responses=[[] for _ in batch],
            alive=np.ones(len(batch), dtype=bool),
            failed=np.zeros(len(batch), dtype=bool),
            finished=np.zeros(len(batch), dtype=bool),
            counted=np.zeros(len(batch), dtype=bool),
        )

    def choose(self, logits: Float[Tensor, "row token"], step: int) -> Int[Tensor, " row"]:
        """Choose the next token [row] of every row, and record it for rows that are alive."""
        self.failed |= self.alive & ~usable(logits).numpy()
        self.alive &= ~self.failed
        tokens = choose_tokens(logits, self.requests, self.sampling, step)
        self.alive &= ~torch.isin(tokens, self.stops).numpy()
        self.finished |= ~self.alive & ~self.failed
        self.counted, self.answering = self.alive.copy(), []
        for row in map(int, np.flatnonzero(self.alive)):
            self.responses[row].append(int(tokens[row]))
            if not self.thoughts or not self.thoughts[row].read(self.responses[row]):
                continue
            if not self.include_thinking:
                self.answering.append(row)
                self.counted[row] = False
        return tokens

    def means(self, sums: SpanSums) -> list[Float[Tensor, "span layer hidden"]]:
        """Each row's activations, averaged over the spans; rows with non-finite means fail."""
        skipped = [0] * len(self.requests) if self.include_thinking else self._answer_starts()
        lengths = [max(1, len(r) - n) for r, n in zip(self.responses, skipped, strict=True)]
        found = sums.sums.transpose(0, 1).contiguous()
        found[:, 0] /= torch.tensor(lengths)[:, None, None]
        self.failed |= ~torch.isfinite(found).flatten(1).all(-1).numpy()
        # Cloned: a view of one row would keep the whole batch in memory.
        return [row.clone() for row in found]

    def generation(self, row: int, means: Float[Tensor, "span layer hidden"] | None) -> Generation:
        """The generation of a row; `means` are its activations."""
        request, response = self.requests[row], self.responses[row]
        if self.failed[row]:
            return Generation(request.id, (), False, failed=True)
        unfinished = bool(self.thoughts) and self.thoughts[row].unfinished(response)
        start = len(response) if unfinished else self._answer_starts()[row]
        answer = tuple(response[start:])
        return Generation(
            id=request.id,
            response_ids=answer,
            finished=bool(self.finished[row]),
            activations=means if answer else None,
            thinking_ids=tuple(response[:start]),
            unfinished_thought=unfinished,
        )

    def _answer_starts(self) -> list[int]:
        """The number of thought tokens at the beginning of each response."""
        return [thought.start for thought in self.thoughts] or [0] * len(self.requests)


@torch.inference_mode()
def generate_batch(
    loaded: LoadedModel,
    batch: Sequence[Request],
    sampling: Sampling,
    *,
    capture: bool = False,
    include_thinking: bool = False,
) -> list[Generation]:
    """Generate the responses of one planned batch.

    A thought is never part of the response; it is part of the captured mean only with
    `include_thinking`. A row with NaN or infinite logits or means fails, while the others go on.
    """
    model, blocks = loaded.model, find_blocks(loaded.model)
    rows = _BatchRows.of(loaded, batch, sampling, include_thinking=include_thinking)
    steering = SteeringBatch([r.steering for r in batch], blocks.hidden_size, blocks.n_layers)
    sums = SpanSums(range(blocks.n_layers + 1), len(SPANS), len(batch), blocks.hidden_size)
    with contextlib.ExitStack() as hooks:
        hooks.enter_context(steering_rows(model, steering))
        if capture:
            hooks.enter_context(recording(model, sums))
        _decode(loaded, rows, steering, sums, capture=capture)
    means = rows.means(sums) if capture else [None] * len(batch)
    return [rows.generation(row, own) for row, own in enumerate(means)]


def _decode(
    loaded: LoadedModel, rows: _BatchRows, steering: SteeringBatch, sums: SpanSums, *, capture: bool
) -> None:
    """Prefill the prompts, then decode one token per row and step until all rows have ended."""
    model, device, max_tokens = loaded.model, loaded.device, rows.sampling.max_tokens
    prompts = [request.prompt_ids for request in rows.requests]
    ids, prompt_mask, positions = padded(prompts, pad_id=0, side="left", device=device)
    width = ids.shape[1]
    mask = torch.zeros(len(prompts), width + max_tokens, dtype=torch.long, device=device)
    mask[:, :width] = prompt_mask
    cache = _cache(model.config, width + max_tokens)
    steering.token_masks = _prompt_masks(prompt_mask)
    sums.weigh(_prompt_weights(prompt_mask))
    logits = forward_logits(model, ids, mask[:, :width], positions, cache)
    for step in range(max_tokens):
        tokens = rows.choose(logits, step)
        for row in rows.answering:
            # All tokens up to the latest belong to the thought; the latest has not run yet.
            sums.forget(0, row)
        # The last token within the limit needs a forward pass only for capture.
        last = step + 1 == max_tokens
        if not rows.alive.any() or (last and not capture):
            break
        live = torch.from_numpy(rows.alive)
        mask[:, width + step] = live.to(device)
        steering.token_masks = token_masks(live)
        sums.weigh(_token_weights(torch.from_numpy(rows.counted)))
        # Finished rows are fed a dummy token, which is neither read nor steered.
        fed = torch.where(live, tokens, 0)[:, None].to(device)
        next_position = positions[:, -1:] + 1 + step
        logits = forward_logits(model, fed, mask[:, : width + step + 1], next_position, cache)


def _thoughts(loaded: LoadedModel, batch: Sequence[Request]) -> list[Thought]:
    """One `Thought` for every row; empty if the model does not think."""
    form = loaded.chat.thinking
    if form is None:
        return []
    return [Thought(form, loaded.chat.decode_marked, request.prompt_ids) for request in batch]


def _cache(config: Any, tokens: int) -> Cache:
    """A preallocated cache, which is faster, or a growing one if the model needs it."""
    if config.get_text_config().model_type in _ALIBI:
        return DynamicCache(config=config)
    return StaticCache(config=config, max_cache_len=tokens)


def forward_logits(model, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """Run a forward pass; float32 logits [batch, vocabulary] of the last position, on the CPU."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float().cpu()


@torch.inference_mode()
def try_forward(loaded: LoadedModel) -> None:
    """Run a forward pass over two tokens, as in generation. Raises what the model raises."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=loaded.device)
    cache = _cache(loaded.model.config, 2)
    forward_logits(loaded.model, ids, torch.ones_like(ids), torch.arange(2)[None].to(ids), cache)


def _prompt_masks(prompt_mask: Tensor) -> dict[str, Tensor]:
    """Masks [batch, token] of the steered positions of left-padded prompts, by `Positions`."""
    response = torch.zeros_like(prompt_mask)
    response[:, -1] = 1
    return {"response": response, "prompt": prompt_mask, "all": prompt_mask}


def token_masks(live: Tensor) -> dict[str, Tensor]:
    """Masks [batch, 1] of the steered rows while decoding one token per row, by `Positions`."""
    on = live[:, None].long()
    return {"response": on, "prompt": torch.zeros_like(on), "all": on}


def _prompt_weights(prompt_mask: Tensor) -> Tensor:
    """Weights [span, batch, token] of prompt tokens, in the order of SPANS."""
    mean = prompt_mask / prompt_mask.sum(-1, keepdim=True)
    last = torch.zeros_like(mean)
    last[:, -1] = 1
    return torch.stack([torch.zeros_like(mean), mean, last])


def _token_weights(live: Tensor) -> Tensor:
    """Weights [span, batch, 1] of one response token per row, in the order of SPANS."""
    on = live[:, None].float()
    return torch.stack([on, torch.zeros_like(on), torch.zeros_like(on)])


def choose_tokens(
    logits: Tensor, batch: Sequence[Request], sampling: Sampling, step: int
) -> Tensor:
    """The next token [row], with the same sampling for all rows and the noise of each request."""
    return choose(logits, [Draw(sampling, request.noise_key, step) for request in batch])
