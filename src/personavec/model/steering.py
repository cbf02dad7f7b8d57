"""Steering: add vectors to the residual stream, or cap it, by row, layer and position.

An addition is h <- h + coefficient * v. A cap is h <- h - max(0, h.u - ceiling) u with u = v / |v|,
which acts only where the projection exceeds the ceiling. At each layer, additions precede caps.

`steer` acts on every forward pass of a transformers model. The engine uses `SteeringBatch` with
`steering_rows`, where every row of a batch has its own actions.
"""

from __future__ import annotations

import math
from collections import Counter
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
#: One layer, every layer, or the vector's selected layer (None).
Layers = int | Literal["all"] | None


@dataclass(frozen=True, eq=False)
class Steering:
    """One addition to the residual stream at the output of one layer.

    `direction` is the vector's row as extracted (not normalised), and `coefficient` multiplies it.
    `positions` says where it acts: `response` is every position that predicts a response token,
    from the last prompt position on.
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


@dataclass(frozen=True, eq=False)
class Cap:
    """An upper bound on the projection at the output of one layer.

    h <- h - max(0, h.u - ceiling) u, with u = direction / |direction|. `ceiling` is in units of
    the residual stream. Negate direction and ceiling for a lower bound.
    """

    layer: int
    direction: Float[Tensor, " hidden"]
    ceiling: float
    positions: Positions = "response"

    def __post_init__(self) -> None:
        if not math.isfinite(self.ceiling):
            raise UsageError(f"ceiling {self.ceiling} is not a finite number")
        if self.layer < 1:
            raise UsageError(f"layer {self.layer} cannot be capped: layers count from 1")

    @property
    def unit(self) -> Float[Tensor, " hidden"]:
        """The normalised direction, in float32."""
        return self.direction.float() / self.direction.float().norm()


#: A change of a row's residual stream.
Action = Steering | Cap


@dataclass(frozen=True, eq=False)
class _CapRows:
    """A cap for each row of a batch; a row without a cap has an infinite ceiling."""

    units: Float[Tensor, "row hidden"]
    ceilings: Float[Tensor, " row"]

    def excess(self, hidden: Float[Tensor, "row token hidden"]) -> Tensor:
        """Excess [row, token] of every token's projection over the row's ceiling, at least 0."""
        projected = torch.einsum("rth,rh->rt", hidden.float(), self.units)
        return (projected - self.ceilings[:, None]).clamp(min=0)

    def to(self, device: torch.device) -> _CapRows:
        """The same on another device."""
        return _CapRows(self.units.to(device), self.ceilings.to(device))


class SteeringBatch:
    """Steering for the rows of one batch; row i gets exactly the actions `rows[i]`.

    Before each forward pass, the caller sets `token_masks`: for each value of `Positions`, a mask
    [batch, tokens] of the tokens in this pass, 0 at padding. Raises UsageError for a layer that
    the model does not have.
    """

    def __init__(self, rows: Sequence[Sequence[Action]], hidden_size: int, n_layers: int):
        self.token_masks: dict[str, Tensor] = {}
        self.fired: set[int] = set()
        self._on_device: set[int] = set()
        self.additions: dict[int, dict[str, Tensor]] = {}
        self.caps: dict[int, dict[str, list[_CapRows]]] = {}
        shape = (len(rows), hidden_size)
        for i, row in enumerate(rows):
            placed: Counter[tuple[int, str]] = Counter()
            for action in row:
                _check_layer(action, n_layers)
                if isinstance(action, Cap):
                    place = action.layer, action.positions
                    self._add_cap(i, action, placed[place], shape)
                    placed[place] += 1
                elif action.coefficient:
                    by_kind = self.additions.setdefault(action.layer, {})
                    rows_of_kind = by_kind.setdefault(action.positions, torch.zeros(shape))
                    rows_of_kind[i] += action.coefficient * action.direction.float()

    def _add_cap(self, row: int, cap: Cap, slot: int, shape: tuple[int, int]) -> None:
        """Add a row's cap; `slot` counts the row's earlier caps at the same layer and positions."""
        slots = self.caps.setdefault(cap.layer, {}).setdefault(cap.positions, [])
        if slot == len(slots):
            slots.append(_CapRows(torch.zeros(shape), torch.full(shape[:1], math.inf)))
        slots[slot].units[row] = cap.unit
        slots[slot].ceilings[row] = cap.ceiling

    @property
    def layers(self) -> set[int]:
        """The layers with an addition or a cap."""
        return {*self.additions, *self.caps}

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        """Steer the hidden states [batch, tokens, hidden] of one layer."""
        self.fired.add(layer)
        additions, caps = self._moved(layer, hidden.device)
        for kind, addition in additions.items():
            mask = self.token_masks[kind].to(hidden.device, torch.float32)
            added = mask[:, :, None] * addition[:, None, :]
            hidden = hidden + added.to(hidden.dtype)
        for kind, slots in caps.items():
            mask = self.token_masks[kind].to(hidden.device, torch.float32)
            for rows in slots:
                over = mask * rows.excess(hidden)
                removed = over[:, :, None] * rows.units[:, None, :]
                hidden = hidden - removed.to(hidden.dtype)
        return hidden

    def _moved(
        self, layer: int, device: torch.device
    ) -> tuple[dict[str, Tensor], dict[str, list[_CapRows]]]:
        """What acts at a layer, on the layer's device, to which it is copied once."""
        additions, caps = self.additions.get(layer, {}), self.caps.get(layer, {})
        if layer not in self._on_device:
            self._on_device.add(layer)
            for kind, addition in additions.items():
                additions[kind] = addition.to(device)
            for kind, slots in caps.items():
                caps[kind] = [rows.to(device) for rows in slots]
        return additions, caps


@contextmanager
def steering_rows(model: nn.Module, batch: SteeringBatch) -> Iterator[SteeringBatch]:
    """In this context, every forward pass of `model` is steered row by row.

    Raises HookError if a layer to steer was never reached, so that no run is silently unsteered.
    """
    blocks = find_blocks(model).stack
    handles = []
    for layer in batch.layers:

        def hook(module, args, output, layer=layer):
            return with_block_output(output, batch.apply(layer, block_output(output)))

        # Prepended, so that capture at the same layer reads the steered state.
        handles.append(blocks[layer - 1].register_forward_hook(hook, prepend=True))
    try:
        yield batch
    finally:
        for handle in handles:
            handle.remove()
    missed = batch.layers - batch.fired
    if missed:
        raise HookError(f"steering did not act at layer(s) {sorted(missed)}: no forward ran there")


def _check_layer(action: Action, n_layers: int) -> None:
    if action.layer > n_layers:
        raise UsageError(
            f"layer {action.layer} does not exist: the model has layers 1 to {n_layers}"
        )


def vector_steering(
    vector: PersonaVector,
    coefficient: float,
    layer: Layers = None,
    positions: Positions = "response",
) -> tuple[Steering, ...]:
    """The additions for a vector and a coefficient.

    At one layer (by default the vector's selected layer), h <- h + coefficient * v. With `"all"`
    every layer l gets the increment v_l - v_(l-1): the residual stream carries additions at lower
    layers up, so the increments sum to the vector (paper, multi-layer steering).
    """
    if layer != "all":
        chosen = vector.layer if layer is None else layer
        return (Steering(chosen, vector.direction(chosen), coefficient, positions),)
    return tuple(
        Steering(number, increment, coefficient, positions)
        for number, increment in enumerate(vector.increments(), start=1)
    )


def vector_cap(vector: PersonaVector, percentile: float, positions: Positions = "response") -> Cap:
    """A cap at a percentile of ordinary tokens' projections, at the calibrated layer.

    Ordinary tokens are the model's own response tokens on neutral prompts, from the vector's
    calibration. Their spread is about twice that of response means. Raises UsageError for a vector
    without a calibration.
    """
    if vector.calibration is None:
        raise UsageError(
            f"vector '{vector.trait}' has no calibration, so the projections of ordinary tokens "
            "are not known; run: personavec calibrate --vectors FOLDER"
        )
    ceiling = vector.calibration.ceiling(percentile)
    layer = vector.calibration.layer
    return Cap(layer, vector.direction(layer), ceiling, positions)


@contextmanager
def steer(
    model: nn.Module,
    vector: PersonaVector,
    coefficient: float = 0.0,
    *,
    layer: Layers = None,
    positions: Positions = "response",
    cap: float | None = None,
) -> Iterator[nn.Module]:
    """Steer forward passes and `generate` of a transformers model towards or against a trait.

    >>> with steer(model, vector, coefficient=1.5):
    ...     model.generate(**inputs)

    `layer` defaults to the vector's selected layer; `"all"` steers every layer by its increment
    (see `vector_steering`). With `positions="response"`, a forward pass over several tokens (the
    prompt) is steered only at its last position, and a pass over one token (cached decoding) is
    steered. This suits `generate` with left-padded prompts; to score given texts, use
    `positions="all"`. `cap` is a percentile at which the projection is also capped (see
    `vector_cap`).

    Raises VectorMismatchError if the vector is for a model of another shape, and HookError if
    nothing was steered.
    """
    blocks = find_blocks(model)
    vector.check_fits(blocks.n_layers, blocks.hidden_size)
    actions: tuple[Action, ...] = vector_steering(vector, coefficient, layer, positions)
    if cap is not None:
        actions = (*actions, vector_cap(vector, cap, positions))
    with steering_forwards(model, actions):
        yield model


@contextmanager
def steering_forwards(model: nn.Module, actions: Sequence[Action]) -> Iterator[None]:
    """In this context, the same actions apply to every row of every forward pass of `model`.

    The number of tokens in a pass decides which positions are steered, as described for `steer`.
    Raises HookError if an action never acted.
    """
    blocks = find_blocks(model)
    fired: set[int] = set()

    def hook_for(number: int, action: Action):
        def hook(module, args, output):
            fired.add(number)
            return with_block_output(output, _acted(action, block_output(output)))

        return hook

    for action in actions:
        _check_layer(action, blocks.n_layers)
    # Prepended, so that capture at the same layer reads the steered state. The hook that is
    # prepended last runs first, so they are registered in reverse: additions, then caps.
    ordered = sorted(actions, key=lambda action: isinstance(action, Cap))
    handles = [
        blocks.stack[action.layer - 1].register_forward_hook(hook_for(number, action), prepend=True)
        for number, action in reversed(list(enumerate(ordered)))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if len(fired) < len(actions):
        raise HookError("steering did not act: no forward of the model ran inside the context")


def _acted(action: Action, hidden: Tensor) -> Tensor:
    """The hidden states [row, token, hidden] after one action on all rows."""
    tokens = hidden.shape[1]
    mask = torch.ones(tokens, device=hidden.device)
    if action.positions == "response":
        mask[:-1] = 0
    elif action.positions == "prompt" and tokens == 1:
        mask[:] = 0
    if isinstance(action, Cap):
        direction = action.unit.to(hidden.device)
        size = -(hidden.float() @ direction - action.ceiling).clamp(min=0)
    else:
        direction = (action.coefficient * action.direction).float().to(hidden.device)
        size = torch.ones_like(mask)
    change = (mask * size)[..., None] * direction
    return hidden + change.to(hidden.dtype)
