"""Log-probabilities of given responses after given prompts; the model reads each prompt once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from personavec.errors import UsageError
from personavec.model.beginnings import Beginnings, Ids, shared_beginnings
from personavec.model.capture import padded
from personavec.model.encoded_prompts import EncodedPrompts, encode_prompts
from personavec.model.loaded import LoadedModel

#: Token ids of a prompt and of the response to score after it.
ScoringJob = tuple[Ids, Ids]

#: Cache layers with only keys and values, of which rows can be selected and repeated.
_SELECTABLE = (DynamicLayer, DynamicSlidingWindowLayer)
#: Prompts of one cache differ in length by at most this share of the longest.
_UNLIKE = 1 / 4
#: Responses of a batch with this many tokens differ in length by at most an eighth.
_WIDE = 1024


@torch.inference_mode()
def token_logprobs(
    loaded: LoadedModel,
    jobs: Sequence[ScoringJob],
    *,
    batch_tokens: int = 12288,
    beginnings: Beginnings | None = None,
    others: Sequence[Ids] = (),
) -> list[Tensor]:
    """log p(token | prompt, earlier tokens) in nats, one tensor [token] for each job.

    Each distinct prompt runs once, and so does what prompts share at their beginning. `beginnings`
    keeps that for later calls, also what is shared only with `others`, which those calls hold.
    Responses of like lengths then run together, whatever their prompts. A cache of prompts and one
    of responses after them have at most `batch_tokens` positions each, including padding, unless
    one text alone has more. Raises UsageError for an empty prompt or response, and for one that
    exceeds the model's context.
    """
    _check_jobs(jobs, loaded.context)
    results: list[Tensor] = [torch.empty(0)] * len(jobs)
    layers = {type(layer) for layer in DynamicCache(config=loaded.model.config).layers}
    if not layers <= set(_SELECTABLE):
        sizes = [(len(prompt), len(response)) for prompt, response in jobs]
        order = sorted(range(len(jobs)), key=lambda i: sizes[i], reverse=True)
        for batch in _batches(sizes, order, batch_tokens):
            for i, logprobs in zip(batch, _whole([jobs[i] for i in batch], loaded), strict=True):
                results[i] = logprobs
        return results
    kept = Beginnings() if beginnings is None else beginnings
    for prompts, lengths in _prompts(jobs, others, batch_tokens):
        encoded = encode_prompts(loaded, prompts, lengths, kept)
        row = {prompt: n for n, prompt in enumerate(prompts)}
        sizes = [(encoded.mask.shape[1], len(response)) for _, response in jobs]
        own = [i for i, (prompt, _) in enumerate(jobs) if prompt in row]
        for batch in _batches(sizes, sorted(own, key=lambda i: -sizes[i][1]), batch_tokens):
            rows = torch.tensor([row[jobs[i][0]] for i in batch], device=loaded.device)
            found = _after_prompts(loaded, encoded, rows, [jobs[i][1] for i in batch])
            for i, logprobs in zip(batch, found, strict=True):
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


def _prompts(
    jobs: Sequence[ScoringJob], others: Sequence[Ids], budget: int
) -> Iterator[tuple[list[Ids], list[tuple[int, ...]]]]:
    """The distinct prompts in groups of like lengths, with the lengths of shared beginnings."""
    distinct = list(dict.fromkeys(prompt for prompt, _ in jobs))
    shared = dict(zip(distinct, shared_beginnings([*distinct, *others]), strict=False))
    group: list[Ids] = []
    for prompt in sorted(distinct, key=lambda prompt: (-len(prompt), prompt)):
        longest = len((group or [prompt])[0])
        full = (len(group) + 1) * longest > budget
        if group and (full or len(prompt) < (1 - _UNLIKE) * longest):
            yield group, [shared[own] for own in group]
            group = []
        group.append(prompt)
    if group:
        yield group, [shared[own] for own in group]


def _batches(
    sizes: Sequence[tuple[int, int]], order: Sequence[int], budget: int
) -> list[list[int]]:
    """Group jobs, by tokens of prompt and response, into batches of at most `budget` positions.

    A batch that is wide enough has responses of like lengths.
    """
    batches: list[list[int]] = []
    prompt = response = 0
    for i in order:
        longest = max(prompt, sizes[i][0]), max(response, sizes[i][1])
        rows = len(batches[-1]) if batches else 0
        like = sizes[i][1] >= response * 7 / 8 or rows * response < _WIDE
        if rows and like and (rows + 1) * sum(longest) <= budget:
            batches[-1].append(i)
            prompt, response = longest
        else:
            batches.append([i])
            prompt, response = sizes[i]
    return batches


def _after_prompts(
    loaded: LoadedModel, encoded: EncodedPrompts, rows: Tensor, responses: Sequence[Ids]
) -> list[Tensor]:
    """Log-probabilities of responses, each after the prompt in one of `rows`."""
    ids, seen, offsets = padded(responses, pad_id=0, side="right", device=loaded.device)
    parts = [_gather(encoded.logits[rows][:, None], ids[:, :1])]
    # The last token predicts nothing that is scored, so it does not run.
    if ids.shape[1] > 1:
        mask = encoded.mask[rows]
        logits = loaded.model(
            input_ids=ids[:, :-1],
            attention_mask=torch.cat([mask, seen[:, :-1]], dim=-1),
            position_ids=mask.sum(-1, keepdim=True) + offsets[:, :-1],
            past_key_values=encoded.rows(rows),
            use_cache=True,
        ).logits
        parts.append(_gather(logits, ids[:, 1:]))
    return _cut(torch.cat(parts, dim=1), responses)


def _cut(logprobs: Tensor, responses: Sequence[Ids]) -> list[Tensor]:
    return [row[: len(own)] for row, own in zip(logprobs.cpu(), responses, strict=True)]


def _whole(jobs: Sequence[ScoringJob], loaded: LoadedModel) -> list[Tensor]:
    """Run prompts and responses in one forward pass, for models with recurrent state.

    Prompts are padded on the left and responses on the right, so that all responses begin in the
    same column, and logits are computed only from there on.
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
    return _cut(_gather(logits[:, :-1], responses), [response for _, response in jobs])


def _gather(logits: Tensor, ids: Tensor) -> Tensor:
    """Float32 log-probabilities [batch, n] of ids [batch, n] by logits [batch, n, vocabulary]."""
    rows, n, size = logits.shape
    targets = ids.reshape(-1)
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
