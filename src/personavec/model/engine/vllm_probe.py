"""Checks that what hooks change in a compiled model reaches the rest of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from personavec.errors import HookError
from personavec.model import Steering
from personavec.model.engine.base import SPANS
from personavec.model.engine.vllm_answer import VllmAnswer

#: The answer to a short prompt under a steering.
Probe = Callable[[tuple[Steering, ...]], VllmAnswer]


def check_hooks(n_layers: int, hidden_size: int, probe: Probe) -> None:
    """Check that steering at each layer changes the next one, and at the last layer the logits.

    The last layer is steered both ways, after which different tokens must follow. One prompt at a
    time, since vLLM has CUDA graphs for few tokens only. Raises HookError.
    """
    plain = _mean(probe(()))
    lengths = plain.norm(dim=-1).tolist()
    random = torch.randn(hidden_size, generator=torch.Generator().manual_seed(0))
    unit = random / random.norm()
    for layer in range(1, n_layers):
        found = _mean(probe((Steering(layer, unit, lengths[layer], "all"),)))
        if not (found[layer + 1] - plain[layer + 1]).norm() > lengths[layer + 1] / 100:
            raise HookError(f"steering at layer {layer} does not reach layer {layer + 1}")
    up, down = (
        probe((Steering(n_layers, unit, factor * lengths[n_layers], "all"),)).token_ids
        for factor in (10, -10)
    )
    if up == down:
        raise HookError(f"steering at layer {n_layers} does not reach the logits")


def _mean(answer: VllmAnswer) -> Tensor:
    """The mean over the prompt [layer, hidden]."""
    if answer.sums is None:
        raise HookError("activations are missing: a hook in vLLM's workers did not fire")
    return answer.sums[SPANS.index("prompt_mean")]
