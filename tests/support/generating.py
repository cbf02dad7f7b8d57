"""Responses of the transformers engine, in the order of their requests."""

from collections.abc import Iterator, Sequence
from typing import Any

from personavec import LoadedModel
from personavec.model.engine import Generation, Request, Sampling, TransformersEngine


def generate(
    loaded: LoadedModel,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    batch_tokens: int = 1 << 14,
    **options: Any,
) -> Iterator[list[Generation]]:
    """Groups of responses as they finish."""
    return TransformersEngine(loaded, batch_tokens).generate(requests, sampling, **options)


def generate_batch(
    loaded: LoadedModel, requests: Sequence[Request], sampling: Sampling, **options: Any
) -> list[Generation]:
    """The responses of a few requests."""
    groups = generate(loaded, requests, sampling, **options)
    found = {generation.id: generation for group in groups for generation in group}
    return [found[request.id] for request in requests]
