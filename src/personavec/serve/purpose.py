"""What a request's steering explains: the part of a reading that was added on purpose.

An addition at a layer stays in the residual stream of all later layers. So its part in a reading is
its projection on the reading's direction. What the model then makes of it is not taken out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from personavec.conditions import Condition
from personavec.model import Action, Steering
from personavec.monitor import Gauge
from personavec.serve.actions import Applied


@dataclass(frozen=True, eq=False)
class Purpose:
    """What a request added to the readings of its reply, by trait; nothing by default."""

    projections: Mapping[str, float] = field(default_factory=dict)
    """In units of the residual stream."""
    sigmas: Mapping[str, float] = field(default_factory=dict)
    """In standard deviations of neutral replies' means."""
    coefficients: Mapping[str, float] = field(default_factory=dict)
    """Of the vectors that were steered with."""

    def toward(self, trait: str) -> bool:
        """Whether the reply was steered toward the trait."""
        return self.coefficients.get(trait, 0.0) > 0

    def explains(self, condition: Condition, without: Mapping[str, float]) -> bool:
        """Whether a condition that is met was to be expected.

        It was if the steering means to go there, or if it is not met `without` what was added.
        """
        sign = 1 if condition.side == ">" else -1
        return self.coefficients.get(condition.trait, 0.0) * sign > 0 or not condition.met(without)


def purpose(applied: Sequence[Applied], gauge: Gauge) -> Purpose:
    """The purpose of a request's additions. Caps have none, since they only take away."""
    values = added([one.action for one in applied], gauge).tolist()
    spreads = gauge.response_mean[:, 1].tolist()
    return Purpose(
        dict(zip(gauge.traits, values, strict=True)),
        {t: v / s for t, v, s in zip(gauge.traits, values, spreads, strict=True)},
        {one.record["vector"]: one.record.get("coefficient", 0.0) for one in applied},
    )


def added(actions: Sequence[Action], gauge: Gauge) -> Float[Tensor, " direction"]:
    """What additions put into the projections on a gauge's directions."""
    found = torch.zeros(len(gauge.traits))
    layers = torch.tensor(gauge.directions.layers)
    for action in actions:
        if isinstance(action, Steering):
            along = gauge.directions.unit.float().cpu() @ action.direction.float().cpu()
            found += action.coefficient * along * (layers >= action.layer)
    return found
