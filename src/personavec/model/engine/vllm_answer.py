"""vLLM's answer to a request: its tokens, and the readings of the workers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor

from personavec.errors import HookError
from personavec.model.engine.base import SPANS, Generation


@dataclass(frozen=True, eq=False)
class VllmAnswer:
    """The tokens of a request, and the readings of the workers."""

    token_ids: tuple[int, ...] = ()
    sums: Float[Tensor, "span layer hidden"] | None = None
    """The response's sum, the prompt's mean and its last token, in the order of `SPANS`."""
    n_summed: int = 0
    """Number of response tokens in the sums."""
    projections: Float[Tensor, "token direction"] | None = None
    sound: bool | None = None
    """False if logits were NaN, infinite or all equal; None if no worker checked them."""

    def overflowed(self, name: str) -> bool:
        """Whether the request failed. Raises HookError if no worker checked its logits."""
        if self.sound is None:
            raise HookError(
                f"the logits of request {name} were not checked: a hook in vLLM's workers did not "
                "fire"
            )
        return not self.sound


def with_means(generation: Generation, answer: VllmAnswer, n_read: int) -> Generation:
    """The generation with its activations; the response mean is over `n_read` tokens.

    A generation with NaN or infinite activations fails. Raises HookError if the workers did not
    read `n_read` tokens.
    """
    if not generation.response_ids:
        return generation
    if answer.sums is None or answer.n_summed != n_read:
        raise HookError(
            f"vLLM's workers read {answer.n_summed} of {n_read} response tokens of request "
            f"{generation.id}: a hook did not fire"
        )
    means = answer.sums.clone()
    means[0] /= n_read
    if not torch.isfinite(means).all():
        return Generation(generation.id, (), False, failed=True)
    return replace(generation, activations=means)


def gathered(
    names: Sequence[str],
    stages: Sequence[list[int]],
    shares: Sequence[bytes],
    empty: Float[Tensor, "span layer hidden"],
) -> dict[str, VllmAnswer]:
    """Answers by name, without tokens, from the shares of all workers.

    `stages` are the layers of each worker, and `shares` the results of `Residual.peek` there, which
    are empty for a worker that does not read. `empty` are zeros in the shape of a request's sums.
    """
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    projections: dict[int, Tensor] = {}
    sound: dict[int, bool] = {}
    for layers, share in zip(stages, shares, strict=True):
        if not share:
            continue
        found, counted, looked = opened(share)
        sound |= {int(number): own for number, own in looked.items()}
        for key, tensor in found.items():
            kind, number = key.split()
            i = int(number)
            if kind == "sums":
                sums.setdefault(i, torch.zeros_like(empty))[:, layers] = tensor.transpose(0, 1)
                counts[i] = counted[number]
            else:
                # Each stage projects at its own layers; the other layers' values are 0.
                projections[i] = projections[i] + tensor if i in projections else tensor
    return {
        name: VllmAnswer((), sums.get(i), counts.get(i, 0), projections.get(i), sound.get(i))
        for i, name in enumerate(names)
    }


def opened(share: bytes) -> tuple[dict[str, Tensor], dict[str, int], dict[str, bool]]:
    """Unpack a worker's share: tensors, token counts by request, and soundness by request."""
    size = int(np.frombuffer(share[:8], "<u8")[0])
    metadata = json.loads(share[8 : 8 + size])["__metadata__"]
    return load(share), json.loads(metadata["counts"]), json.loads(metadata["sound"])


def empty_sums(n_layers: int, hidden: int) -> Float[Tensor, "span layer hidden"]:
    """Zeros in the shape of a request's sums."""
    return torch.zeros(len(SPANS), n_layers + 1, hidden)
