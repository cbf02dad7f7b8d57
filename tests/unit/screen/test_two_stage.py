"""Two stages: what is estimated of all rows from some exact differences covers the truth."""

import numpy as np
import pytest

from personavec.screen import two_stage


def _population(seed: int, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Cheap and exact differences that agree in part, skewed, with an offset and a slope."""
    rng = np.random.default_rng(seed)
    exact = rng.gamma(2.0, 2.0, n) - 3
    return 0.5 * exact + rng.normal(0, 1.0, n) + 2, exact


def test_the_corrected_mean_covers_the_truth() -> None:
    """95% intervals over 200 draws: fewer than 180 covering has odds below 1 in 1,000."""
    covered = 0
    for seed in range(200):
        cheap, exact = _population(seed)
        chosen = two_stage.choose(cheap[:, None], top=400, sample=150, seed=seed)
        known = np.full(len(exact), np.nan)
        places = np.concatenate([chosen.top, chosen.sample])
        known[places] = exact[places]
        found = two_stage.corrected_mean(cheap, known, chosen)
        assert found is not None
        covered += found.low <= exact.mean() <= found.high
        assert abs(cheap.mean() - exact.mean()) > 1  # what it corrects
    assert covered >= 180


def test_recall_covers_the_truth() -> None:
    covered = 0
    for seed in range(200):
        cheap, exact = _population(seed)
        chosen = two_stage.choose(cheap[:, None], top=400, sample=150, seed=seed)
        known = np.full(len(exact), np.nan)
        places = np.concatenate([chosen.top, chosen.sample])
        known[places] = exact[places]
        line = 5.0
        found = two_stage.recall(known, chosen, len(exact) - len(chosen.top), line)
        assert found is not None
        truth = (exact[chosen.top] > line).sum() / (exact > line).sum()
        covered += found.low <= truth <= found.high
    assert covered >= 180


def test_stages_hold_every_traits_top_and_no_row_twice() -> None:
    rng = np.random.default_rng(0)
    cheap = rng.normal(size=(100, 2))
    cheap[7] = np.nan
    chosen = two_stage.choose(cheap, top=5, sample=20, seed=1)
    for column in cheap.T:
        assert set(np.argsort(-np.nan_to_num(column, nan=-9))[:5]) <= set(chosen.top)
    assert not set(chosen.top) & set(chosen.sample)
    assert len(chosen.sample) == 20
    assert 7 not in [*chosen.top, *chosen.sample]
    whole = two_stage.choose(cheap, top=99, sample=20, seed=1)
    exact = cheap[:, 0]
    found = two_stage.corrected_mean(exact, exact, whole)
    assert found is not None
    assert (found.low, found.high) == (found.value, found.value)
    assert found.value == pytest.approx(np.nanmean(exact))
