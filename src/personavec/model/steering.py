"""Add vectors to the residual stream: h <- h + coefficient * v, per row, layer and position."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from personavec.errors import HookError, UsageError
from personavec.model.blocks import block_output, find_blocks, with_block_output
from personavec.vectors import PersonaVector

Positions = Literal["response", "prompt", "all"]
#: One layer, every layer, or the vector's selected one.
Layers = int | Literal["all"] | None


@dataclass(frozen=True, eq=False)
class Steering:
    """One addition to the residual stream at the output of one layer.

    `direction` is the full steering direction [hidden] as extracted (not normalised);
    `coefficient` its multiple; `positions` where it acts: `response` is every position whose
    logits choose a response token, from the last prompt position on.
    """

    layer: int
    direction: Float[Tensor, " hidden"]
    coefficient: float
    positions: Positions = "response"

    def __post_init__(self) -> None:
        if not math.isfinite(self.coefficient):
            raise UsageError(f"coefficient {self.coefficient} is not a finite number")
        if self.layer < 1:
            raise UsageError(f"layer {self.layer} cannot be steered: layers count from 1")


class SteeringBatch:
    """Steering for the rows of one batch; row i gets exactly the steerings `rows[i]`.

    Before each forward, `token_masks` is set by the caller: for every kind of position, a
    [batch, tokens] mask over the forward's tokens, padding excluded.
    """

    def __init__(self, rows: Sequence[Sequence[Steering]], hidden_size: int, n_layers: int):
        self.token_masks: dict[str, Tensor] = {}
        self.fired: set[int] = set()
        self.additions: dict[int, dict[str, Tensor]] = {}
        for i, row in enumerate(rows):
            for steering in row:
                if steering.layer > n_layers:
                    raise UsageError(
                        f"layer {steering.layer} does not exist: the model has layers 1 to "
                        f"{n_layers}"
                    )
                if steering.coefficient == 0:
                    continue
                by_kind = self.additions.setdefault(steering.layer, {})
                rows_of_kind = by_kind.setdefault(
                    steering.positions, torch.zeros(len(rows), hidden_size)
                )
                rows_of_kind[i] += steering.coefficient * steering.direction.float()

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        """The hidden states [batch, tokens, hidden] of one layer, steered."""
        self.fired.add(layer)
        for kind, addition in self.additions[layer].items():
            mask = self.token_masks[kind].to(hidden.device, torch.float32)
            added = mask[:, :, None] * addition.to(hidden.device)[:, None, :]
            hidden = hidden + added.to(hidden.dtype)
        return hidden


@contextmanager
def steering_rows(model: nn.Module, batch: SteeringBatch) -> Iterator[SteeringBatch]:
    """Within this context every forward of `model` is steered row by row.

    Raises HookError if a layer to be steered was never reached: a run must not be silently
    unsteered.
    """
    blocks = find_blocks(model).stack
    handles = []
    for layer in batch.additions:

        def hook(module, args, output, layer=layer):
            return with_block_output(output, batch.apply(layer, block_output(output)))

        # Prepended, so that capture at the same layer reads the steered state.
        handles.append(blocks[layer - 1].register_forward_hook(hook, prepend=True))
    try:
        yield batch
    finally:
        for handle in handles:
            handle.remove()
    missed = set(batch.additions) - batch.fired
    if missed:
        raise HookError(f"steering did not act at layer(s) {sorted(missed)}: no forward ran there")


def vector_steering(
    vector: PersonaVector,
    coefficient: float,
    layer: Layers = None,
    positions: Positions = "response",
) -> tuple[Steering, ...]:
    """The steerings that a vector and a coefficient mean.

    At one layer (default: the vector's selected one), h <- h + coefficient * v. With `"all"`, at
    every layer the increment v_l - v_(l-1) from the layer below: what is added at the layers
    below has already travelled up, so that the whole vector is added once, not once a layer
    (paper, multi-layer steering).
    """
    if layer != "all":
        chosen = vector.layer if layer is None else layer
        return (Steering(chosen, vector.direction(chosen), coefficient, positions),)
    return tuple(
        Steering(number, increment, coefficient, positions)
        for number, increment in enumerate(vector.increments(), start=1)
    )


@contextmanager
def steer(
    model: nn.Module,
    vector: PersonaVector,
    coefficient: float,
    *,
    layer: Layers = None,
    positions: Positions = "response",
) -> Iterator[nn.Module]:
    """Steer any forward or `generate` of a transformers model towards (or against) a trait.

    >>> with steer(model, vector, coefficient=1.5):
    ...     model.generate(**inputs)

    `layer` defaults to the vector's selected layer; `"all"` steers every layer by its increment
    (see `vector_steering`). With `positions="response"` a forward of several tokens (the prompt)
    is steered at its last position only and every one-token forward (cached decoding) entirely,
    which is what `generate` needs with left-padded prompts. To score given texts, use
    `positions="all"`.

    Raises VectorMismatchError when the vector is for a model of another shape, HookError when
    nothing was steered.
    """
    blocks = find_blocks(model)
    vector.check_fits(blocks.n_layers, blocks.hidden_size)
    with steering_forwards(model, vector_steering(vector, coefficient, layer, positions)):
        yield model


@contextmanager
def steering_forwards(model: nn.Module, steerings: Sequence[Steering]) -> Iterator[None]:
    """Within this context every row of every forward of `model` gets the same steerings.

    Positions are told from the forward's length alone, as `steer` says. Raises HookError if
    nothing was steered; with no steerings there is nothing to do.
    """
    blocks = find_blocks(model)
    fired: set[int] = set()

    def hook_for(number: int, steering: Steering):
        addition = (steering.coefficient * steering.direction).float()

        def hook(module, args, output):
            fired.add(number)
            hidden = block_output(output)
            tokens = hidden.shape[1]
            mask = torch.ones(tokens, device=hidden.device)
            if steering.positions == "response":
                mask[:-1] = 0
            elif steering.positions == "prompt" and tokens == 1:
                mask[:] = 0
            steered = hidden + (mask[:, None] * addition.to(hidden.device)).to(hidden.dtype)
            return with_block_output(output, steered)

        return hook

    for steering in steerings:
        if steering.layer > blocks.n_layers:
            raise UsageError(
                f"layer {steering.layer} does not exist: the model has layers 1 to "
                f"{blocks.n_layers}"
            )
    # Prepended, so that capture at the same layer reads the steered state.
    handles = [
        blocks.stack[steering.layer - 1].register_forward_hook(
            hook_for(number, steering), prepend=True
        )
        for number, steering in enumerate(steerings)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if len(fired) < len(steerings):
        raise HookError("steering did not act: no forward of the model ran inside the context")
