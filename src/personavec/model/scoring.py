"""Log-probabilities of given responses under given prompts; each distinct prompt runs once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from personavec.errors import UsageError
from personavec.model.capture import padded
from personavec.model.loading import LoadedModel

Job = tuple[tuple[int, ...], tuple[int, ...]]


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
    prompts = list(dict.fromkeys(prompt for prompt, _ in jobs))
    index = {prompt: i for i, prompt in enumerate(prompts)}
    model, device = loaded.model, loaded.device
    ids, mask, positions = padded(prompts, pad_id=0, side="left", device=device)
    cache = DynamicCache(config=model.config)
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
    starts = mask.sum(-1)[which]
    predicting = [first[which]]
    # The last token predicts nothing that is scored, so it is never fed.
    if responses.shape[1] > 1:
        rest = model(
            input_ids=responses[:, :-1],
            attention_mask=torch.cat([mask[which], seen[:, :-1]], dim=-1),
            position_ids=starts[:, None] + offsets[:, :-1],
            past_key_values=cache,
            use_cache=True,
        ).logits
        predicting.append(rest)
    scored = [
        _gather(logits, responses, at) for logits, at in zip(predicting, (0, 1), strict=False)
    ]
    logprobs = torch.cat(scored, dim=1).cpu()
    return [logprobs[b, : len(response)] for b, (_, response) in enumerate(jobs)]


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
