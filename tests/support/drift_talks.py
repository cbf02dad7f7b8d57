"""Conversations whose readings drift or do not."""

import numpy as np


def constant_talks(n: int, seed: int, more: float = 0) -> list[list[float]]:
    """Conversations of which half the variance, or more, is their own."""
    rng = np.random.default_rng(seed)
    return [
        (0.65 * rng.normal(size=rng.integers(4, 16)) + 0.75 * rng.normal() + more).tolist()
        for _ in range(n)
    ]
