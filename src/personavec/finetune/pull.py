"""How the loss pulls activations along directions, read from its gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from personavec.finetune.hooks import TrainingHooks
from personavec.finetune.texts import TrainingText, collate
from personavec.model import LoadedModel
from personavec.stats import Interval, clustered_bootstrap

#: Texts in a forward pass.
_BATCH = 4


@dataclass(frozen=True)
class Pull:
    """How the loss pulled along one direction over some forward passes."""

    toward: float | None
    """Mean over rows of the cosine between descent and direction; None without any row."""
    share: float | None
    """Share of the squared gradient that lies along the direction."""
    rows: tuple[float, ...]
    """The cosine of each row."""


class LossPull:
    """Reads how the loss pulls a layer's activations along directions, from its gradient.

    For each row the gradient at the layer's output is summed over the positions; its negative is
    the direction of descent. Above 0, the cosine of descent and direction says that the data pull
    the activations toward the direction. The share of the squared gradient along a random
    direction is 1/hidden.
    """

    def __init__(self, directions: Mapping[str, tuple[int, Float[Tensor, " hidden"]]]) -> None:
        """`directions` by name: the layer each is read at, and the direction."""
        self._at: dict[int, dict[str, Tensor]] = {}
        for name, (layer, direction) in directions.items():
            unit = direction.float() / direction.float().norm()
            self._at.setdefault(layer, {})[name] = unit
        self._cosines: dict[str, list[Tensor]] = {name: [] for name in directions}
        self._squares: dict[str, list[Tensor]] = {name: [] for name in directions}

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self._at)

    def act(self, layer: int, hidden: Tensor, positions: Tensor) -> None:
        """The `act` of `TrainingHooks`; changes nothing."""
        if not hidden.requires_grad:
            return  # In reentrant checkpointing only the second pass has a gradient.

        def read(gradient: Tensor) -> None:
            found = gradient.detach().float() * positions[:, :, None]
            descent, all_of_it = -found.sum(1), found.square().sum()
            size = descent.norm(dim=-1)
            for name, unit in self._at[layer].items():
                unit = unit.to(found.device)
                # A row without a loss or with a zero gradient has no cosine.
                cosine = torch.where(size > 0, descent @ unit / size.clamp(min=1e-30), torch.nan)
                self._cosines[name].append(cosine)
                self._squares[name].append(torch.stack([(found @ unit).square().sum(), all_of_it]))

        hidden.register_hook(read)

    def take(self) -> dict[str, Pull]:
        """What was read since the last call, by the direction's name."""
        taken = {}
        for name, cosines in self._cosines.items():
            if cosines:
                rows = tuple(c for c in torch.cat(cosines).tolist() if c == c)
                along, all_of_it = torch.stack(self._squares[name]).sum(0).tolist()
                taken[name] = Pull(
                    toward=sum(rows) / len(rows) if rows else None,
                    share=along / all_of_it if all_of_it else None,
                    rows=rows,
                )
            cosines.clear()
            self._squares[name].clear()
        return taken


def pull_before(
    loaded: LoadedModel,
    texts: Sequence[TrainingText],
    directions: Mapping[str, tuple[int, Tensor]],
) -> dict[str, Pull]:
    """How the loss of the untrained model pulls along directions (`LossPull`).

    Only the layers' outputs get a gradient, not the weights.
    """
    pull = LossPull(directions)

    def read(layer: int, hidden: Tensor, positions: Tensor) -> Tensor:
        leaf = hidden if hidden.requires_grad else hidden.detach().requires_grad_()
        pull.act(layer, leaf, positions)
        return leaf

    model, hooks = loaded.model, TrainingHooks(pull.layers, read)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    hooks.attach(model)
    model.train()
    try:
        for start in range(0, len(texts), _BATCH):
            inputs = collate([asdict(e) for e in texts[start : start + _BATCH]])
            inputs = {name: value.to(loaded.device) for name, value in inputs.items()}
            model(**inputs, use_cache=False).loss.backward()
        hooks.check_fired()
    finally:
        hooks.detach()
        model.eval()
        for weight in trained:
            weight.requires_grad_(True)
    return pull.take()


def pull_interval(pull: Pull) -> Interval:
    """Mean cosine of the rows' descent with the direction, bootstrapped over rows.

    Raises DataError where fewer than two rows have a gradient.
    """
    return clustered_bootstrap(np.asarray(pull.rows), list(range(len(pull.rows))))
