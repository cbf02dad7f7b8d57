"""Preventative steering: steer toward the unwanted trait in training, and not at inference.

Steering already moves the activations along the vector, so the training data exert less pressure
on the weights to do so (paper, section 5.2). This file also has the ablation of directions in
training, which the study of mitigations compares with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import TrainerCallback

from personavec.errors import HookError, UsageError
from personavec.finetune.hooks import TrainedPositions, TrainingHooks, blocks_in
from personavec.finetune.schedule import Schedule
from personavec.model import Layers, vector_steering
from personavec.vectors import PersonaVector
from personavec.wording import plural

Coefficient = float | Schedule


class PreventativeSteering(TrainerCallback):
    """Adds coefficient · v to the residual stream in every forward pass in training mode.

    Use it as a context manager in your own training loop, or as a callback of transformers'
    `Trainer` and its subclasses, such as TRL's `SFTTrainer`:

    >>> steering = PreventativeSteering(model, load_vector("evil"), 2.0)
    >>> with steering:
    ...     model(**batch).loss.backward()
    >>> SFTTrainer(model, callbacks=[steering], ...).train()

    `vectors`, `coefficients` and `layers` are single values or sequences of the same length; a
    single coefficient or layer applies to all vectors. A layer is a number, None for the vector's
    selected layer, or `"all"`: every layer l gets the increment v_l - v_(l-1), so that the
    increments sum to the vector (paper, multi-layer steering). A coefficient is a multiple of the
    vector as extracted, or a `Schedule` over the run. The callback follows the schedule by itself;
    in your own loop, call `advance` before every step.

    By default it steers the positions that predict a response token: from the last prompt position
    on, as read from the labels (-100 means no loss). `positions="all"` steers every position.
    Padding and forward passes in eval mode are never steered. With gradient checkpointing, run the
    backward pass before the next forward pass.

    Saved models do not contain the steering. Raises VectorMismatchError for a vector of another
    shape, and HookError if the hooks cannot attach, get no labels, or never act, so that no run
    is silently trained without steering. Use it for supervised finetuning: in reinforcement
    learning, steering is reported to stop the learning.
    """

    def __init__(
        self,
        model: nn.Module,
        vectors: PersonaVector | Sequence[PersonaVector],
        coefficients: Coefficient | Sequence[Coefficient],
        layers: Layers | Sequence[Layers] = None,
        *,
        positions: TrainedPositions = "response",
    ) -> None:
        self.model = model
        self.vectors = (vectors,) if isinstance(vectors, PersonaVector) else tuple(vectors)
        if not self.vectors:
            raise UsageError("preventative steering needs at least one vector")
        n = len(self.vectors)
        self.schedules = tuple(_schedule(c) for c in _in_parallel(coefficients, n, "coefficients"))
        self.layers: tuple[Layers, ...] = tuple(_in_parallel(layers, n, "layers"))
        blocks = blocks_in(model)
        self._parts: dict[int, list[tuple[Schedule, Tensor]]] = {}
        for vector, schedule, where in zip(self.vectors, self.schedules, self.layers, strict=True):
            vector.check_fits(blocks.n_layers, blocks.hidden_size)
            for steering in vector_steering(vector, 1.0, where):
                part = (schedule, steering.direction.float())
                self._parts.setdefault(steering.layer, []).append(part)
        self._hooks = TrainingHooks(list(self._parts), self._add, positions)
        self._share: float | None = None
        self._ready: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}
        self._entered = False

    @property
    def positions(self) -> TrainedPositions:
        """Which positions are steered."""
        return self._hooks.positions

    def advance(self, share: float) -> None:
        """Set the share of the run that is done, 0 to 1, for coefficients with a schedule."""
        if share != self._share:
            self._share = share
            if not all(schedule.is_constant for schedule in self.schedules):
                self._ready.clear()

    def __enter__(self) -> PreventativeSteering:
        self._hooks.attach(self.model)
        self._entered = True
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self._entered = False
        self._hooks.detach()
        if kind is None:
            self._hooks.check_fired()
            if self._share is None and not all(s.is_constant for s in self.schedules):
                raise HookError(
                    "the coefficient follows a schedule, but advance was never called: call "
                    "advance(share) before every step"
                )

    # As a callback

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any):
        """Attach the hooks to the trainer's model."""
        self.advance(_done(state))
        # The trainer's model: PEFT or FSDP may have wrapped the one given.
        self._hooks.attach(self.model if model is None else model)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any):
        """Set the coefficients of this step."""
        self.advance(_done(state))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any):
        """Raise HookError where no hook has fired."""
        # Fail after the first step, not at the end of the run.
        self._hooks.check_fired()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any):
        """Remove the hooks. Raises HookError where none has fired."""
        self._hooks.detach()
        self._hooks.check_fired()

    def detach(self) -> None:
        """Remove the hooks, for a trainer that failed before `on_train_end`."""
        self._hooks.detach()

    def _add(self, layer: int, hidden: Tensor, positions: Tensor) -> Tensor:
        key = (layer, hidden.device, hidden.dtype)
        addition = self._ready.get(key)
        if addition is None:
            share = self._share or 0.0
            total = sum(schedule.at(share) * d for schedule, d in self._parts[layer])
            addition = self._ready[key] = torch.as_tensor(total).to(hidden.device, hidden.dtype)
        return hidden + positions[:, :, None].to(hidden.dtype) * addition


class Ablation(TrainerCallback):
    """Projects directions out of the residual stream in every forward pass in training mode.

    At each vector's layer, h <- h - (h · u) u with u = v / |v|; several directions at a layer are
    first orthogonalised (CAFT, arXiv 2507.16795). `positions` is as in `PreventativeSteering`.
    """

    def __init__(
        self,
        model: nn.Module,
        vectors: Sequence[PersonaVector],
        layers: Layers = None,
        *,
        positions: TrainedPositions = "response",
    ) -> None:
        self.model = model
        blocks = blocks_in(model)
        by_layer: dict[int, list[Tensor]] = {}
        for vector in vectors:
            vector.check_fits(blocks.n_layers, blocks.hidden_size)
            chosen = vector.layer if layers is None else layers
            for layer in range(1, blocks.n_layers + 1) if chosen == "all" else (chosen,):
                by_layer.setdefault(int(layer), []).append(vector.direction(int(layer)))
        self._bases = {n: torch.linalg.qr(torch.stack(d, 1))[0] for n, d in by_layer.items()}
        self._hooks = TrainingHooks(list(by_layer), self._remove, positions)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any):
        self._hooks.attach(self.model if model is None else model)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any):
        self._hooks.check_fired()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any):
        self._hooks.detach()

    def detach(self) -> None:
        self._hooks.detach()

    def _remove(self, layer: int, hidden: Tensor, positions: Tensor) -> Tensor:
        basis = self._bases[layer].to(hidden.device)
        along = hidden.float() @ basis @ basis.T
        return hidden - (positions[:, :, None] * along).to(hidden.dtype)


def randomly_rotated(vector: PersonaVector, *, seed: int) -> PersonaVector:
    """A control vector: the rows [layer, hidden] rotated by one random rotation.

    Norms and the angles between layers are preserved, and so are the norms of the increments. It is
    therefore a control for steering at one layer and at all layers.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: Float[Tensor, "layer hidden"] = vector.directions.float()
    basis, _ = torch.linalg.qr(rows.T)
    random = torch.randn(basis.shape, generator=generator)
    turned = rows @ basis @ torch.linalg.qr(random)[0].T
    return replace(
        vector,
        response_mean_diff=turned,
        estimated={},
        estimated_neutral={},
        estimator="mean",
        trait=f"random-{vector.trait}",
    )


def _in_parallel(given: Any, n: int, name: str) -> list[Any]:
    values = list(given) if isinstance(given, (list, tuple)) else [given] * n
    if len(values) != n:
        raise UsageError(
            f"{len(values)} {name} for {plural(n, 'vector')}; give one for all, or one each"
        )
    return values


def _schedule(coefficient: Coefficient) -> Schedule:
    return coefficient if isinstance(coefficient, Schedule) else Schedule.constant(coefficient)


def _done(state: Any) -> float:
    return state.global_step / max(1, state.max_steps)
