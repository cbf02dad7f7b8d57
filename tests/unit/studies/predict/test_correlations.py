"""Correlations of what data say with what training does."""

from dataclasses import replace

import numpy as np
import pytest
from predictions import record

from personavec.studies.predict.correlations import correlation, correlations


def test_correlations_are_pearsons_over_datasets() -> None:
    rng = np.random.default_rng(0)
    records = [
        record(f"d{n}", x, 2 * x + noise) for n, (x, noise) in enumerate(rng.normal(size=(12, 2)))
    ]
    found = correlation(records, "shift", "expression")
    x, y = np.array([(r.shift, r.expression) for r in records]).T
    by_hand = ((x - x.mean()) * (y - y.mean())).mean() / (x.std() * y.std())
    assert found["r"] == pytest.approx(by_hand)
    assert found["low"] is not None
    assert found["high"] is not None
    assert found["low"] < by_hand < found["high"]
    assert found["datasets"] == 12
    # Two finetunes, or none that differ, say nothing.
    assert correlation(records[:2], "shift", "expression")["r"] is None
    same = [replace(r, shift=1.0) for r in records]
    assert correlation(same, "shift", "expression")["r"] is None


def test_own_and_other_traits_are_apart() -> None:
    records = [
        record(f"d{n}", n, n, trait, own)
        for n in range(4)
        for trait, own in (("a", True), ("b", False))
    ]
    found = {(c["over"], c["of"], c["with"]): c for c in correlations(records)}
    assert found["own", "shift", "expression"]["r"] == pytest.approx(1)
    assert found["own", "shift", "expression"]["n"] == 4
    assert found["b", "shift", "expression"]["n"] == 4
    assert found["own", "length", "shift"]["r"] is None
