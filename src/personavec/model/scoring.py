"""Log-probabilities of given responses after given prompts; a shared prefix runs once."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from personavec.errors import UsageError
from personavec.model.capture import padded
from personavec.model.loaded import LoadedModel

#: Token ids of a prompt and of the response to score after it.
ScoringJob = tuple[tuple[int, ...], tuple[int, ...]]

#: Cache layers with only keys and values, of which rows can be selected and repeated.
_SELECTABLE = (DynamicLayer, DynamicSlidingWindowLayer)
#: A prefix that prompts share runs once if it has more than this many tokens.
_MIN_STEM = 32


@torch.inference_mode()
def token_logprobs(
    loaded: LoadedModel, jobs: Sequence[ScoringJob], *, batch_tokens: int = 12288
) -> list[Tensor]:
    """log p(token | prompt, earlier tokens) in nats, one tensor [token] for each job.

    A shared prefix of prompts runs once, and so does each distinct prompt of a batch. A batch has
    at most `batch_tokens` positions in its cache, including padding; logits are computed only for
    response positions. Raises UsageError for an empty prompt or response, and for one that exceeds
    the model's context.
    """
    _check_jobs(jobs, loaded.context)
    results: list[Tensor] = [torch.empty(0)] * len(jobs)
    layers = {type(layer) for layer in DynamicCache(config=loaded.model.config).layers}
    for stem, members in _stems(jobs, shared=layers == {DynamicLayer}):
        cache = _run_stem(stem, loaded)
        # Sort so that equal prompts are adjacent and a batch has prompts of similar length.
        members.sort(key=lambda i: (len(jobs[i][0]), jobs[i][0], -len(jobs[i][1])))
        for batch in _batches(jobs, members, batch_tokens):
            chosen = [jobs[i] for i in batch]
            if layers <= set(_SELECTABLE):
                logits, responses = _after_stem(chosen, loaded, len(stem), _shared(cache))
            else:
                logits, responses = _whole(chosen, loaded)
            for i, logprobs in zip(batch, _logprobs(chosen, logits, responses), strict=True):
                results[i] = logprobs
    return results


def _check_jobs(jobs: Sequence[ScoringJob], context: int) -> None:
    for prompt, response in jobs:
        if not prompt or not response:
            raise UsageError("cannot score an empty prompt or response")
        if len(prompt) + len(response) > context:
            raise UsageError(
                f"a prompt and response of {len(prompt) + len(response)} tokens exceed the "
                f"model's context of {context}"
            )


def _stems(jobs: Sequence[ScoringJob], *, shared: bool) -> list[tuple[tuple[int, ...], list[int]]]:
    """Group jobs by the prefix (stem) that their prompts share; it may be empty.

    There is padding between a stem and the rest of a prompt. Since a sliding window counts padding
    as distance, models with one do not share stems.
    """
    stems: list[tuple[tuple[int, ...], list[int]]] = []
    alone: list[int] = []
    group: list[int] = []

    def close() -> None:
        if len({jobs[i][0] for i in group}) > 1:
            # What the first and last of the sorted prompts share, all share. A prompt that is
            # itself a prefix of another keeps its last token, which predicts the response.
            first, last = jobs[group[0]][0], jobs[group[-1]][0]
            length = min(_common(first, last), len(first) - 1)
            stems.append((first[:length], list(group)))
        else:
            alone.extend(group)
        group.clear()

    for i in sorted(range(len(jobs)), key=lambda i: jobs[i][0]):
        if not shared or (group and _common(jobs[group[0]][0], jobs[i][0]) <= _MIN_STEM):
            close()
        group.append(i)
    close()
    return [*stems, ((), alone)]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the prefix that two prompts share."""
    return next(
        (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _run_stem(stem: tuple[int, ...], loaded: LoadedModel) -> DynamicCache:
    cache = DynamicCache(config=loaded.model.config)
    if stem:
        ids = torch.tensor([stem], device=loaded.device)
        loaded.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def _shared(cache: DynamicCache) -> DynamicCache:
    """A shallow copy of the cache. A forward pass replaces its tensors, not the original's."""
    own = copy(cache)
    own.layers = [copy(layer) for layer in cache.layers]
    return own


def _batches(jobs: Sequence[ScoringJob], order: Sequence[int], budget: int) -> list[list[int]]:
    batches: list[list[int]] = []
    prompt = response = 0
    for i in order:
        longest = max(prompt, len(jobs[i][0])), max(response, len(jobs[i][1]))
        if batches and (len(batches[-1]) + 1) * sum(longest) <= budget:
            batches[-1].append(i)
            prompt, response = longest
        else:
            batches.append([i])
            prompt, response = map(len, jobs[i])
    return batches


def _logprobs(
    jobs: Sequence[ScoringJob], logits: list[tuple[int, Tensor]], responses: Tensor
) -> list[Tensor]:
    logprobs = torch.cat([_gather(part, responses, at) for at, part in logits], dim=1).cpu()
    return [logprobs[b, : len(response)] for b, (_, response) in enumerate(jobs)]


def _after_stem(
    jobs: Sequence[ScoringJob], loaded: LoadedModel, stem: int, cache: DynamicCache
) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Run every distinct prompt once, then each response with its prompt's keys and values.

    `cache` has one row with the first `stem` tokens, which all prompts share. Returns logits
    [batch, n, vocabulary] with the response positions at which they begin, and the padded
    responses [batch, token].
    """
    model, device = loaded.model, loaded.device
    prompts = list(dict.fromkeys(prompt for prompt, _ in jobs))
    index = {prompt: i for i, prompt in enumerate(prompts)}
    ids, mask, offsets = padded([p[stem:] for p in prompts], pad_id=0, side="left", device=device)
    mask = torch.cat([mask.new_ones(len(prompts), stem), mask], dim=-1)
    cache.batch_repeat_interleave(len(prompts))
    first = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=stem + offsets,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    which = torch.tensor([index[prompt] for prompt, _ in jobs], device=device)
    cache.batch_select_indices(which)
    responses, seen, offsets = padded(
        [response for _, response in jobs], pad_id=0, side="right", device=device
    )
    logits = [(0, first[which])]
    # The last token predicts nothing that is scored, so it does not run.
    if responses.shape[1] > 1:
        rest = model(
            input_ids=responses[:, :-1],
            attention_mask=torch.cat([mask[which], seen[:, :-1]], dim=-1),
            position_ids=mask.sum(-1)[which][:, None] + offsets[:, :-1],
            past_key_values=cache,
            use_cache=True,
        ).logits
        logits.append((1, rest))
    return logits, responses


def _whole(
    jobs: Sequence[ScoringJob], loaded: LoadedModel
) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Run prompts and responses in one forward pass, for models with recurrent state.

    Prompts are padded on the left and responses on the right, so that all responses begin in the
    same column, and logits are computed only from there on. Returns the same as `_after_stem`.
    """
    device = loaded.device
    prompts, prompt_mask, _ = padded([p for p, _ in jobs], pad_id=0, side="left", device=device)
    responses, seen, _ = padded([r for _, r in jobs], pad_id=0, side="right", device=device)
    mask = torch.cat([prompt_mask, seen], dim=-1)
    logits = loaded.model(
        input_ids=torch.cat([prompts, responses], dim=-1),
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=responses.shape[1] + 1,
    ).logits
    return [(0, logits[:, :-1])], responses


def _gather(logits: Tensor, responses: Tensor, at: int) -> Tensor:
    """Float32 log-probabilities [batch, n] of responses[:, at:at+n] by logits [batch, n, vocab]."""
    rows, n, size = logits.shape
    targets = responses[:, at : at + n].reshape(-1)
    flat = logits.reshape(-1, size)
    # In float32 the logits of 512 tokens take 100 MB; a CPU's caches hold those of a few tokens.
    chunk = max(1, 2**20 // size) if logits.device.type == "cpu" else 512
    parts = [
        -functional.cross_entropy(
            flat[i : i + chunk].float(), targets[i : i + chunk], reduction="none"
        )
        for i in range(0, flat.shape[0], chunk)
    ]
    return torch.cat(parts).reshape(rows, n)
