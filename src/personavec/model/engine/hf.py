"""Batched generation on a transformers model, with per-row steering and capture as it runs.

A planned batch is decoded with one preallocated key-value cache until its last row is done.
Capture adds each new token's activations while decoding, so no second pass reads the text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import Cache, DynamicCache, StaticCache

from personavec.model.blocks import find_blocks
from personavec.model.capture import (
    SpanSums,
    batches_under_budget,
    padded,
    recording,
)
from personavec.model.engine.base import (
    SPANS,
    Generation,
    Request,
    Sampling,
    check_room,
    while_any_is_well,
)
from personavec.model.engine.sampling import Draw, choose, usable
from personavec.model.loading import LoadedModel
from personavec.model.projecting import Directions, TokenIds, project_tokens
from personavec.model.steering import SteeringBatch, steering_rows
from personavec.model.thinking import Thought

#: Families whose position biases are as wide as the attention mask, not as a preallocated cache.
_ALIBI = frozenset({"bloom", "falcon", "mpt"})


@dataclass(frozen=True, eq=False)
class TransformersEngine:
    """The engine of a transformers model in this process (`base.Engine`)."""

    loaded: LoadedModel
    batch_tokens: int = 16384
    name: str = "transformers"

    def describe(self) -> dict[str, Any]:
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
    """Batches whose prompt and response tokens stay within the budget; deterministic."""
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
    """Generate responses, yielding one finished planned batch after the other.

    Batches are planned over all requests, `done` ones too, so that a continued run forms those
    that an undisturbed one would have formed; a batch that is done as a whole is left out.
    Sampling noise is keyed by (seed, request, step), so a batch's size and company change a
    result only through rounding. Raises UsageError when a prompt leaves no room for a response
    in the model's context, ActivationError when the second response without steering has failed
    and none was well.
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
    yield from while_any_is_well(loaded.identity, requests, groups)


@torch.inference_mode()
def generate_batch(
    loaded: LoadedModel,
    batch: Sequence[Request],
    sampling: Sampling,
    *,
    capture: bool = False,
    include_thinking: bool = False,
) -> list[Generation]:
    """Generate one planned batch.

    Thinking is cut off the response and stays out of its captured mean, unless
    `include_thinking` takes it into the mean. A row with NaN or infinite logits or means fails, and
    the others go on.
    """
    model, device = loaded.model, loaded.device
    blocks = find_blocks(model)
    rows = len(batch)
    ids, prompt_mask, positions = padded(
        [request.prompt_ids for request in batch], pad_id=0, side="left", device=device
    )
    width = ids.shape[1]
    mask = torch.zeros(rows, width + sampling.max_tokens, dtype=torch.long, device=device)
    mask[:, :width] = prompt_mask
    steering = SteeringBatch([r.steering for r in batch], blocks.hidden_size, blocks.n_layers)
    sums = SpanSums(range(blocks.n_layers + 1), len(SPANS), rows, blocks.hidden_size)
    responses: list[list[int]] = [[] for _ in batch]
    finished = [False] * rows
    failed = np.zeros(rows, dtype=bool)
    thoughts = _thoughts(loaded, batch)
    stops = torch.tensor(sorted(loaded.stop_ids))
    cache = _cache(model.config, width + sampling.max_tokens)

    with contextlib.ExitStack() as hooks:
        hooks.enter_context(steering_rows(model, steering))
        if capture:
            hooks.enter_context(recording(model, sums))
        steering.token_masks = _prompt_masks(prompt_mask)
        sums.weigh(_prompt_weights(prompt_mask))
        logits = forward_logits(model, ids, mask[:, :width], positions, cache)
        alive = np.ones(rows, dtype=bool)
        next_position = positions[:, -1:] + 1
        for step in range(sampling.max_tokens):
            failed |= alive & ~usable(logits).numpy()
            alive &= ~failed
            tokens = choose_tokens(logits, batch, sampling, step)
            alive &= ~torch.isin(tokens, stops).numpy()
            counted = alive.copy()
            for i in np.flatnonzero(alive):
                responses[i].append(int(tokens[i]))
                if thoughts and thoughts[i].read(responses[i]) and not include_thinking:
                    # All of it was thinking, this token too, which has not had its forward yet.
                    sums.forget(0, int(i))
                    counted[i] = False
            for i in np.flatnonzero(~alive & ~failed):
                finished[i] = True
            # A last token cut off by the limit gets its forward only if someone reads it.
            last = step + 1 == sampling.max_tokens
            if not alive.any() or (last and not capture):
                break
            live = torch.from_numpy(alive)
            mask[:, width + step] = live.to(device)
            steering.token_masks = token_masks(live)
            sums.weigh(_token_weights(torch.from_numpy(counted)))
            # Finished rows are fed a token that nothing reads, steers or scores.
            fed = torch.where(live, tokens, 0)[:, None].to(device)
            logits = forward_logits(model, fed, mask[:, : width + step + 1], next_position, cache)
            next_position = next_position + 1

    starts = [thought.start for thought in thoughts] if thoughts else [0] * rows
    unfinished = [bool(thoughts) and thoughts[i].unfinished(responses[i]) for i in range(rows)]
    captured = [None] * rows
    if capture:
        skipped = [0] * rows if include_thinking else starts
        lengths = [max(1, len(r) - n) for r, n in zip(responses, skipped, strict=True)]
        # Rows of their own: a view of one would keep the whole batch in memory.
        means = sums.sums.transpose(0, 1).contiguous()
        means[:, 0] /= torch.tensor(lengths)[:, None, None]
        failed |= ~torch.isfinite(means).flatten(1).all(-1).numpy()
        captured = [row.clone() for row in means]
    found = []
    for i, request in enumerate(batch):
        if failed[i]:
            found.append(Generation(request.id, (), False, failed=True))
            continue
        start = len(responses[i]) if unfinished[i] else starts[i]
        answer = tuple(responses[i][start:])
        found.append(
            Generation(
                id=request.id,
                response_ids=answer,
                finished=finished[i],
                activations=captured[i] if answer else None,
                thinking_ids=tuple(responses[i][:start]),
                unfinished_thought=unfinished[i],
            )
        )
    return found


def _thoughts(loaded: LoadedModel, batch: Sequence[Request]) -> list[Thought]:
    """One for every row, or none where the model's template knows no thinking."""
    form = loaded.chat.thinking
    if form is None:
        return []
    return [Thought(form, loaded.chat.decode_marked, request.prompt_ids) for request in batch]


def _cache(config: Any, tokens: int) -> Cache:
    """Preallocated, which decodes faster, unless the model's attention cannot read it."""
    if config.get_text_config().model_type in _ALIBI:
        return DynamicCache(config=config)
    return StaticCache(config=config, max_cache_len=tokens)


def forward_logits(model, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """Float32 logits of the last position [batch, vocabulary], on the CPU."""
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
    """One forward of two tokens, in the way in which responses are generated."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=loaded.device)
    cache = _cache(loaded.model.config, 2)
    forward_logits(loaded.model, ids, torch.ones_like(ids), torch.arange(2)[None].to(ids), cache)


def _prompt_masks(prompt_mask: Tensor) -> dict[str, Tensor]:
    """Steered positions of a left-padded prompt, by kind."""
    response = torch.zeros_like(prompt_mask)
    response[:, -1] = 1
    return {"response": response, "prompt": prompt_mask, "all": prompt_mask}


def token_masks(live: Tensor) -> dict[str, Tensor]:
    """Steered positions while decoding one token a row, by kind."""
    on = live[:, None].long()
    return {"response": on, "prompt": torch.zeros_like(on), "all": on}


def _prompt_weights(prompt_mask: Tensor) -> Tensor:
    """Weights [span, batch, token] of a prompt, in the order of SPANS."""
    mean = prompt_mask / prompt_mask.sum(-1, keepdim=True)
    last = torch.zeros_like(mean)
    last[:, -1] = 1
    return torch.stack([torch.zeros_like(mean), mean, last])


def _token_weights(live: Tensor) -> Tensor:
    """Weights [span, batch, 1] of one response token a row, in the order of SPANS."""
    on = live[:, None].float()
    return torch.stack([on, torch.zeros_like(on), torch.zeros_like(on)])


def choose_tokens(
    logits: Tensor, batch: Sequence[Request], sampling: Sampling, step: int
) -> Tensor:
    """The next token of every row, all with one sampling; each with its request's noise."""
    return choose(logits, [Draw(sampling, request.noise_key, step) for request in batch])
