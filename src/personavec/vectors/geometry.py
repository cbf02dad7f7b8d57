"""Projections onto a direction, and how reliable the direction is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from personavec.stats import Interval
from personavec.vectors.estimators import Estimator, estimate
from personavec.vectors.vector import cosine


def projections(
    activations: Float[Tensor, "row hidden"], direction: Float[Tensor, " hidden"]
) -> Float[Tensor, " row"]:
    """h.v / |v| of every row, in units of the residual stream."""
    return activations.float() @ (direction / direction.norm())


def mean_and_spread(
    activations: Float[Tensor, "row layer hidden"], directions: Float[Tensor, "layer hidden"]
) -> Float[Tensor, "layer statistic"]:
    """Mean and standard deviation over rows of the projections at every layer."""
    unit = directions / directions.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    values = torch.einsum("rlh,lh->rl", activations.float(), unit)
    return torch.stack([values.mean(0), values.std(0)], dim=-1)


def split_half_cosine(
    pos: Float[Tensor, "pos hidden"],
    neg: Float[Tensor, "neg hidden"],
    pos_questions: Sequence[str],
    neg_questions: Sequence[str],
    *,
    estimator: Estimator = "mean",
    n: int = 200,
    seed: int = 0,
) -> Interval:
    """Cosine between vectors from two random halves of the questions.

    Median and central 95% over `n` random splits; the spread is that of the splits, not a
    confidence interval. Splits that leave a half without one polarity are drawn again.
    """
    questions = sorted(set(pos_questions) | set(neg_questions))
    rng = np.random.default_rng(seed)
    found: list[float] = []
    for _ in range(10 * n):
        if len(found) == n:
            break
        first = set(rng.permutation(questions)[: len(questions) // 2])
        pos_first = torch.tensor([q in first for q in pos_questions])
        neg_first = torch.tensor([q in first for q in neg_questions])
        sides = (pos[pos_first], neg[neg_first], pos[~pos_first], neg[~neg_first])
        if all(len(side) for side in sides):
            a, b = (
                estimate(estimator, p[:, None], q[:, None])[0] for p, q in (sides[:2], sides[2:])
            )
            found.append(float(cosine(a, b)))
    if not found:
        return Interval(float("nan"), float("nan"), float("nan"))
    low, middle, high = np.quantile(found, [0.025, 0.5, 0.975])
    return Interval(float(middle), float(low), float(high))


def question_differences(
    pos: Float[Tensor, "pos hidden"],
    neg: Float[Tensor, "neg hidden"],
    pos_questions: Sequence[str],
    neg_questions: Sequence[str],
) -> tuple[list[str], Float[Tensor, "question hidden"]]:
    """Per-question differences, for the questions that kept rollouts of both polarities."""
    questions = sorted(set(pos_questions) & set(neg_questions))
    rows = [
        pos[torch.tensor([p == q for p in pos_questions])].mean(0)
        - neg[torch.tensor([p == q for p in neg_questions])].mean(0)
        for q in questions
    ]
    return questions, torch.stack(rows) if rows else pos.new_zeros(0, pos.shape[1])


def agreement(differences: Float[Tensor, "question hidden"]) -> list[float]:
    """Cosine of each question's difference with the mean difference of the other questions."""
    n = len(differences)
    if n < 2:
        return []
    others = (differences.sum(0, keepdim=True) - differences) / (n - 1)
    return cosine(differences, others).tolist()


def largest_coordinate(direction: Float[Tensor, " hidden"]) -> tuple[int, float]:
    """The coordinate that holds most of the vector's squared norm, and its share of it."""
    shares = direction.double().square() / direction.double().square().sum()
    index = int(shares.argmax())
    return index, float(shares[index])


def random_directions(
    like: Float[Tensor, " hidden"], n: int, *, seed: int
) -> Float[Tensor, "direction hidden"]:
    """Random directions of the same norm as `like`, the control for steering."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(n, like.shape[0], generator=generator)
    return raw / raw.norm(dim=-1, keepdim=True) * like.norm()
