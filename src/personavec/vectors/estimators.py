"""The persona vector is computed here: a direction from positive and negative activations.

`mean_difference` is the paper's. The coordinates with the largest differences dominate it, so where
one coordinate carries massive activations, it may follow that coordinate and not the trait. A
logistic direction weighs every coordinate by how well it tells the two sides apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from personavec.errors import UsageError

#: An estimator's name, a key of `ESTIMATORS`.
Estimator: TypeAlias = str

#: Inverse strength of the logistic regression's L2 penalty, on standardised coordinates. Strong,
#: because rollouts are few beside coordinates and the two sides are nearly always separable.
_C = 0.01


def mean_difference(
    pos: Float[Tensor, "pos layer hidden"], neg: Float[Tensor, "neg layer hidden"]
) -> Float[Tensor, "layer hidden"]:
    """Mean of the positive activations minus mean of the negative ones (paper, section 2.2)."""
    return pos.mean(0) - neg.mean(0)


def logistic_directions(
    pos: Float[Tensor, "pos layer hidden"], neg: Float[Tensor, "neg layer hidden"]
) -> Float[Tensor, "layer hidden"]:
    """`logistic_direction` at every layer."""
    return torch.stack([logistic_direction(pos[:, i], neg[:, i]) for i in range(pos.shape[1])])


def logistic_direction(
    pos: Float[Tensor, "pos hidden"], neg: Float[Tensor, "neg hidden"]
) -> Float[Tensor, " hidden"]:
    """(d.w) w, where d is the difference of means and w the unit normal of a logistic regression.

    The regression is L2-regularised, and both sides have equal weight. A coordinate whose spread
    within the sides exceeds the median is scaled down to the median. One with a smaller spread is
    left as it is: otherwise a small difference on a nearly constant coordinate would dominate.
    Adding the result moves an activation along w by the distance between the sides. Not in the
    paper. Zeros where the two sides do not differ.
    """
    from sklearn.linear_model import LogisticRegression

    sides = pos.double(), neg.double()
    difference = sides[0].mean(0) - sides[1].mean(0)
    spread = torch.cat([side - side.mean(0) for side in sides]).square().mean(0).sqrt()
    spread = spread.clamp(min=float(spread.median()))
    spread[spread == 0] = 1
    scaled = torch.cat(sides) / spread
    regression = LogisticRegression(C=_C, class_weight="balanced", max_iter=1000)
    labels = np.repeat([1, 0], [len(pos), len(neg)])
    regression.fit((scaled - scaled.mean(0)).numpy(), labels)
    normal = torch.from_numpy(regression.coef_[0]) / spread
    normal = normal / normal.norm().clamp(min=1e-300)
    return ((difference @ normal) * normal).float()


#: Every estimator under its name: a function of both sides' activations [rollout, layer, hidden].
#: Extraction, storage, steering and screening take every function that is entered here.
ESTIMATORS: dict[Estimator, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean_difference,
    "logistic": logistic_directions,
}


def estimate(
    estimator: Estimator,
    pos: Float[Tensor, "pos layer hidden"],
    neg: Float[Tensor, "neg layer hidden"],
) -> Float[Tensor, "layer hidden"]:
    """The direction from the negative to the positive side at every layer.

    Raises UsageError for an estimator that does not exist.
    """
    if estimator not in ESTIMATORS:
        raise UsageError(f"estimator {estimator}: use {' or '.join(ESTIMATORS)}")
    return ESTIMATORS[estimator](pos, neg)
