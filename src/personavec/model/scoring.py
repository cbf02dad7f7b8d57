"""Log-probabilities of given responses under given prompts; each distinct prompt runs once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from personavec.errors import UsageError
from personavec.model.capture import padded
from personavec.model.loading import LoadedModel

Job = tuple[tuple[int, ...], tuple[int, ...]]

#: Cache layers that hold keys and values alone, of which rows can be selected and repeated.
_SELECTABLE = (DynamicLayer, DynamicSlidingWindowLayer)


@torch.inference_mode()
def token_logprobs(
    loaded: LoadedModel, jobs: Sequence[Job], *, batch_tokens: int = 4096
) -> list[Tensor]:
    """log p(token | prompt, earlier tokens) in nats, for each (prompt ids, response ids) job.

    Jobs that share a prompt share its key-value cache. Batches are sorted by length and hold at
    most `batch_tokens` response positions, at which alone logits are computed. Raises UsageError
    on an empty prompt or response, or one that exceeds the model's context.
    """
    for prompt, response in jobs:
        if not prompt or not response:
            raise UsageError("cannot score an empty prompt or response")
        if len(prompt) + len(response) > loaded.context:
            raise UsageError(
                f"a prompt and response of {len(prompt) + len(response)} tokens exceed the "
                f"model's context of {loaded.context}"
            )
    results: list[Tensor] = [torch.empty(0)] * len(jobs)
    # Equal prompts next to each other, prompts of like length together.
    order = sorted(range(len(jobs)), key=lambda i: (len(jobs[i][0]), jobs[i][0], -len(jobs[i][1])))
    for batch in _batches(jobs, order, batch_tokens):
        for i, logprobs in zip(batch, _score([jobs[i] for i in batch], loaded), strict=True):
            results[i] = logprobs
    return results


def _batches(jobs: Sequence[Job], order: Sequence[int], budget: int) -> list[list[int]]:
    batches: list[list[int]] = []
    width = 0
    for i in order:
        wider = max(width, len(jobs[i][1]))
        if batches and (len(batches[-1]) + 1) * wider <= budget:
            batches[-1].append(i)
            width = wider
        else:
            batches.append([i])
            width = len(jobs[i][1])
    return batches


def _score(jobs: Sequence[Job], loaded: LoadedModel) -> list[Tensor]:
    cache = DynamicCache(config=loaded.model.config)
    if all(type(layer) in _SELECTABLE for layer in cache.layers):
        logits, responses = _with_shared_prompts(jobs, loaded, cache)
    else:
        logits, responses = _whole(jobs, loaded)
    logprobs = torch.cat([_gather(part, responses, at) for at, part in logits], dim=1).cpu()
    return [logprobs[b, : len(response)] for b, (_, response) in enumerate(jobs)]


def _with_shared_prompts(
    jobs: Sequence[Job], loaded: LoadedModel, cache: DynamicCache
) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Every distinct prompt runs once; its keys and values are selected for each response."""
    model, device = loaded.model, loaded.device
    prompts = list(dict.fromkeys(prompt for prompt, _ in jobs))
    index = {prompt: i for i, prompt in enumerate(prompts)}
    ids, mask, positions = padded(prompts, pad_id=0, side="left", device=device)
    first = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
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
    # The last token predicts nothing that is scored, so it is never fed.
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


def _whole(jobs: Sequence[Job], loaded: LoadedModel) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """One forward over prompts and responses: for models with recurrent state, not only keys.

    Prompts are padded on the left and responses on the right, so that all responses begin in
    one column and logits are computed from there on.
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


def _gather(logits: Tensor, responses: Tensor, at: int, chunk: int = 512) -> Tensor:
    """Float32 log-probabilities of responses[:, at:at+n] under logits [batch, n, vocabulary]."""
    rows, n, size = logits.shape
    targets = responses[:, at : at + n].reshape(-1)
    flat = logits.reshape(-1, size)
    parts = [
        -functional.cross_entropy(
            flat[i : i + chunk].float(), targets[i : i + chunk], reduction="none"
        )
        for i in range(0, flat.shape[0], chunk)
    ]
    return torch.cat(parts).reshape(rows, n)
