"""From activations of two sides to a direction: the paper's estimator, and a discriminative one.

The difference of means follows whatever differs most in size. Where one coordinate carries
massive activations, that is this coordinate and not the trait; a logistic direction weighs every
coordinate by how well it tells the sides apart.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from personavec.vectors.vector import Estimator

#: Inverse strength of the logistic regression's L2 penalty, on standardised coordinates. Strong,
#: because rollouts are few beside coordinates and the two sides are nearly always separable.
_C = 0.01


def estimate(
    estimator: Estimator,
    pos: Float[Tensor, "pos layer hidden"],
    neg: Float[Tensor, "neg layer hidden"],
) -> Float[Tensor, "layer hidden"]:
    """The direction from the negative to the positive side at every layer."""
    if estimator == "mean":
        return mean_difference(pos, neg)
    return torch.stack([logistic_direction(pos[:, i], neg[:, i]) for i in range(pos.shape[1])])


def mean_difference(
    pos: Float[Tensor, "pos layer hidden"], neg: Float[Tensor, "neg layer hidden"]
) -> Float[Tensor, "layer hidden"]:
    """Mean of the positive activations minus mean of the negative ones (paper, section 2.2)."""
    return pos.mean(0) - neg.mean(0)


def logistic_direction(
    pos: Float[Tensor, "pos hidden"], neg: Float[Tensor, "neg hidden"]
) -> Float[Tensor, " hidden"]:
    """(d.w) w, where d is the difference of means and w the unit normal of a logistic regression.

    The regression is L2-regularised, both sides weigh the same, and a coordinate that spreads
    more than the median one within the sides is scaled down to it; one that spreads less is left,
    since a small difference on a still coordinate would else outweigh the others. Adding the
    result moves an activation as far along w as the sides lie apart on it. Not in the paper.
    Zeros where the two sides do not differ.
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
