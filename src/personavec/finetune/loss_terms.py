"""Mitigations that add a term to the loss (`setup.LossTerm`)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from personavec.errors import UsageError
from personavec.finetune.hooks import IGNORED, TrainingHooks, response_positions
from personavec.finetune.texts import TrainingText
from personavec.model import Directions, Layers, LoadedModel, project_tokens
from personavec.vectors import PersonaVector


class ProjectionPenalty:
    """Weight times the squared change of the projections since before training.

    In standard deviations of neutral prompts, mean over vectors, at every position that chooses
    a response token. The projections before training are computed once (`base_projections`) and
    come with each batch.
    """

    needs_logits = False

    def __init__(
        self, vectors: Sequence[PersonaVector], weight: float, *, layer: Layers = None
    ) -> None:
        self._weight = weight
        self._directions = penalised(vectors, layer)
        self._spread = [
            float(vector.neutral_response_mean[n][1]) or 1.0
            for vector, n in zip(vectors, self._directions.layers, strict=True)
        ]
        self._found: dict[int, Tensor] = {}
        self._hooks = TrainingHooks(sorted(set(self._directions.layers)), self._read)

    def attach(self, model: Any) -> None:
        self._hooks.attach(model)

    def detach(self) -> None:
        self._hooks.detach()

    def __call__(self, model: Any, inputs: Mapping[str, Tensor], logits: Tensor | None) -> Tensor:
        chosen = response_positions(inputs["labels"], inputs["attention_mask"])
        total = torch.zeros((), device=chosen.device)
        for i, layer in enumerate(self._directions.layers):
            now = self._found[layer].float() @ self._directions.unit[i].to(chosen.device)
            change = (now - inputs["base_projection"][:, :, i]) / self._spread[i]
            total = total + (change.square() * chosen).sum()
        return self._weight * total / len(self._directions.layers)

    def _read(self, layer: int, hidden: Tensor, positions: Tensor) -> None:
        self._found[layer] = hidden


def penalised(vectors: Sequence[PersonaVector], layer: Layers = None) -> Directions:
    """The unit directions whose projections are penalised, one per vector."""
    if layer == "all":
        raise UsageError("a penalty on the projection acts at one layer; give its number")
    layers = tuple(vector.layer if layer is None else layer for vector in vectors)
    chosen = [vector.direction(n) for vector, n in zip(vectors, layers, strict=True)]
    return Directions(layers, torch.stack([d / d.norm() for d in chosen]))


def base_projections(
    loaded: LoadedModel, texts: Sequence[TrainingText], directions: Directions
) -> tuple[list[list[float]], ...]:
    """Projections of each text before training, [token][direction]."""
    ids = [np.asarray(text.input_ids, dtype=np.int32) for text in texts]
    return tuple(found.tolist() for found in project_tokens(loaded.model, ids, directions))


class BaseDivergence:
    """Weight times KL(tuned || base) of the distributions that choose response tokens, in nats.

    The base is the model with its adapter disabled. Full finetuning needs a copy of the model,
    which doubles its memory.
    """

    needs_logits = True

    def __init__(self, weight: float) -> None:
        self._weight = weight
        self._copy: Any = None

    def attach(self, model: Any) -> None:
        from peft import PeftModel

        if not isinstance(model, PeftModel):
            self._copy = copy.deepcopy(model).eval().requires_grad_(False)

    def detach(self) -> None:
        self._copy = None

    def __call__(self, model: Any, inputs: Mapping[str, Tensor], logits: Tensor | None) -> Tensor:
        if logits is None:
            raise ValueError("the KL penalty needs the logits")
        targets = inputs["labels"][:, 1:]
        columns = (targets != IGNORED).any(0).nonzero().squeeze(-1)
        base = self._base_logits(model, inputs)[:, :-1][:, columns]
        tuned = logits if logits.shape[1] == len(columns) else logits[:, columns]
        chosen = targets[:, columns] != IGNORED
        p, q = tuned[chosen].float().log_softmax(-1), base[chosen].float().log_softmax(-1)
        return self._weight * (p.exp() * (p - q)).sum()

    @torch.no_grad()
    def _base_logits(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        base = model if self._copy is None else self._copy
        was_training = base.training
        base.eval()
        try:
            with nullcontext() if self._copy is not None else model.disable_adapter():
                return base(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    use_cache=False,
                ).logits
        finally:
            base.train(was_training)
