"""The logistic direction finds what was planted where the difference of means does not."""

import pytest
import torch
from torch import Tensor

from personavec import cosine
from personavec.vectors import estimate, mean_difference
from personavec.vectors.estimators import logistic_direction

HIDDEN, ROWS, MASSIVE = 48, 60, 5


def planted(seed: int, massive: float) -> tuple[Tensor, Tensor, Tensor]:
    """Both sides' activations [row, hidden] and the unit direction between them.

    Noise of 1 on every coordinate, `massive` times that on one, where the sides do not differ.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(HIDDEN, generator=generator)
    direction[MASSIVE] = 0
    direction /= direction.norm()
    noise = torch.randn(2, ROWS, HIDDEN, generator=generator)
    noise[..., MASSIVE] *= massive
    return noise[0] + 2 * direction, noise[1] - 2 * direction, direction


@pytest.mark.parametrize("seed", range(5))
def test_without_massive_activations_both_estimators_find_the_direction(seed: int) -> None:
    pos, neg, direction = planted(seed, massive=1)
    for estimator in ("mean", "logistic"):
        found = estimate(estimator, pos[:, None], neg[:, None])[0]
        assert cosine(found, direction) > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_a_massive_coordinate_misleads_the_mean_difference_alone(seed: int) -> None:
    """Its sampling error there, about 300 * sqrt(2/60) = 55, dwarfs a true difference of 4."""
    pos, neg, direction = planted(seed, massive=300)
    assert cosine(mean_difference(pos[:, None], neg[:, None])[0], direction) < 0.6
    assert cosine(logistic_direction(pos, neg), direction) > 0.9


def test_it_is_as_long_as_the_mean_difference_is_along_it() -> None:
    """So that adding it moves one side's mean onto the other's, along this direction."""
    pos, neg, _ = planted(0, massive=300)
    found = logistic_direction(pos, neg)
    unit = found / found.norm()
    assert found.dtype == torch.float32
    assert (neg + found).mean(0) @ unit == pytest.approx(float(pos.mean(0) @ unit), rel=1e-4)


def test_sides_of_unlike_size_and_constant_coordinates_do_not_matter() -> None:
    pos, neg, direction = planted(0, massive=1)
    pos[:, 7] = neg[:, 7] = 3
    found = logistic_direction(pos, neg[:20])
    direction[7] = 0
    assert found[7] == 0
    assert cosine(found, direction) > 0.85


def test_sides_that_do_not_differ_have_no_direction() -> None:
    same = torch.ones(12, HIDDEN)
    assert not logistic_direction(same, same).any()
