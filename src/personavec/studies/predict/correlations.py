"""Correlations over datasets of what is read before training with what training did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from personavec.studies.predict.results import Correlation, Outcome, PredictionRecord, Predictor

#: What is read of data before training.
PREDICTORS: tuple[Predictor, ...] = ("projection_difference", "projection", "judge", "length")
#: What training did.
OUTCOMES: tuple[Outcome, ...] = ("shift", "expression")

#: Resamples of an interval.
_RESAMPLES = 2000


def correlations(records: Sequence[PredictionRecord], seed: int = 0) -> list[Correlation]:
    """Pearson's r of every predictor with every outcome, and of shift with expression.

    Over datasets' own traits, over other traits (datasets about no trait count here), and over
    all datasets for each trait.
    """
    groups = {
        "own": [r for r in records if r.own],
        "other": [r for r in records if not r.own],
    }
    for trait in dict.fromkeys(r.trait for r in records):
        groups[trait] = [r for r in records if r.trait == trait]
    pairs = [("shift", "expression"), *((p, o) for p in PREDICTORS for o in OUTCOMES)]
    return [
        correlation(group, x, y, seed, over=name)
        for name, group in groups.items()
        for x, y in pairs
    ]


def correlation(
    records: Sequence[PredictionRecord], x: str, y: str, seed: int = 0, *, over: str = ""
) -> Correlation:
    """Pearson's r of two fields of the records, with its interval over resampled datasets."""
    by_dataset: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        left, right = getattr(record, x), getattr(record, y)
        if left is not None and right is not None:
            by_dataset.setdefault(record.dataset, []).append((left, right))
    points = [np.array(by_dataset[name]) for name in sorted(by_dataset)]
    found: Correlation = {
        "over": over,
        "of": x,
        "with": y,
        "r": None,
        "low": None,
        "high": None,
        "n": sum(map(len, points)),
        "datasets": len(points),
    }
    value = _pearson(np.concatenate(points)) if len(points) >= 3 else None
    if value is None:
        return found
    low, high = np.quantile(_resampled(points, seed), [0.025, 0.975])
    return {**found, "r": value, "low": float(low), "high": float(high)}


def _resampled(points: Sequence[np.ndarray], seed: int) -> list[float]:
    """Pearson's r in each resample of whole datasets that defines it."""
    rng = np.random.default_rng(seed)
    draws = [rng.choice(len(points), len(points)) for _ in range(_RESAMPLES)]
    found = [_pearson(np.concatenate([points[i] for i in drawn])) for drawn in draws]
    return [r for r in found if r is not None]


def _pearson(points: Any) -> float | None:
    """None where one side does not vary."""
    if len(points) < 3 or min(np.ptp(points, axis=0)) < 1e-12:
        return None
    return float(np.corrcoef(points[:, 0], points[:, 1])[0, 1])
