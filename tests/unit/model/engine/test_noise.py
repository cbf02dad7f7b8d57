"""Noise is a function of (seed, key, step, token), uniform, and the same however it is computed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats

from personavec.model.engine import Sampling
from personavec.model.engine.noise import gumbel, row_keys, uniform_bits
from personavec.model.engine.sampling import Draw, choose

few = settings(derandomize=True, max_examples=15, deadline=None)
VOCABULARY = 50_000


def bits(*seeds: tuple[int, str, int], vocabulary: int = VOCABULARY) -> np.ndarray:
    """As numbers from 0 to 2^32 - 1."""
    return uniform_bits(row_keys(seeds), vocabulary).numpy().astype(np.int64) % 2**32


def test_bits_are_those_of_the_hash_in_plain_integers() -> None:
    """Recomputed without torch, in Python's integers, for some tokens."""

    def low_bias(x: int) -> int:
        x = ((x ^ x >> 16) * 0x7FEB352D) % 2**32
        x = ((x ^ x >> 15) * 0x846CA68B) % 2**32
        return x ^ x >> 16

    [[first, second]] = row_keys([(3, "a", 7)]).tolist()
    found = bits((3, "a", 7))[0]
    for token in (0, 1, 2, 777, VOCABULARY - 1):
        x = low_bias(token * 0x9E3779B9 % 2**32) ^ first % 2**32
        x = x * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) + second % 2**32
        x = x * 0x846CA68B % 2**32
        assert found[token] == x ^ x >> 16


def test_bits_are_uniform_and_rows_and_tokens_independent() -> None:
    """Over tokens, over steps and over requests; each check fails for one seed in a million."""
    rows = bits(*[(0, f"r{i % 8}", i // 8) for i in range(64)])
    for row in rows[:8]:
        counts = np.bincount(row >> 24, minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6
        low = np.bincount(row & 255, minlength=256)
        assert stats.chisquare(low).pvalue > 1e-6
    for token in (0, 1, 31_000):
        over_rows = bits(*[(0, "r", step) for step in range(4000)], vocabulary=31_001)[:, token]
        assert stats.kstest(over_rows / 2**32, "uniform").pvalue > 1e-6
    correlations = np.corrcoef(rows)
    off = np.abs(correlations - np.eye(len(rows)))
    # The largest of 2016 normal correlations of 50,000 pairs, once in a million.
    assert off.max() < 6.5 / math.sqrt(VOCABULARY)
    neighbours = np.corrcoef(rows[0][:-1], rows[0][1:])[0, 1]
    assert abs(neighbours) < 5 / math.sqrt(VOCABULARY)


def test_a_row_does_not_depend_on_its_batch() -> None:
    together = bits((1, "a", 0), (1, "b", 0), (2, "a", 5))
    assert (together[2] == bits((2, "a", 5))[0]).all()
    assert len({tuple(row[:4]) for row in together}) == 3


def test_noise_is_finite_at_both_ends_and_large_where_the_bits_are_small() -> None:
    ends = torch.tensor([0, 1, 2**30, -(2**30), -1], dtype=torch.int32)
    found = gumbel(ends)
    assert found.isfinite().all()
    assert float(found[0]) == pytest.approx(33 * math.log(2), rel=1e-6)
    assert (found.diff() < 0).all()


@few
@given(seed=st.integers(0, 1000), spread=st.sampled_from([0.0, 0.5, 3.0, 30.0]))
def test_the_fast_way_chooses_what_the_whole_noise_does(seed: int, spread: float) -> None:
    """Rows that nearly tie everywhere, and rows of one likely token."""
    logits = torch.randn(24, 2000, generator=torch.Generator().manual_seed(seed)) * spread
    logits += torch.arange(2000) * 1e-6  # not all equal
    draws = [Draw(Sampling(temperature=1.3, seed=seed), f"r{i}", i) for i in range(24)]
    keys = row_keys([(seed, f"r{i}", i) for i in range(24)])
    whole = (logits / 1.3 + gumbel(uniform_bits(keys, 2000))).argmax(-1)
    assert choose(logits, draws).tolist() == whole.tolist()


def test_rows_that_are_not_usable_choose_nothing_and_disturb_nobody() -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0))
    draws = [Draw(Sampling(seed=1), f"r{i}", 0) for i in range(4)]
    alone = choose(logits, draws).tolist()
    logits[1, 5], logits[2] = torch.nan, 3.0
    assert choose(logits, draws).tolist() == [alone[0], -1, -1, alone[3]]
    greedy = [Draw(Sampling(temperature=0), f"r{i}", 0) for i in range(4)]
    assert [token == -1 for token in choose(logits, greedy).tolist()] == [False, True, True, False]
    mixed = [greedy[0], draws[1], greedy[2], draws[3]]
    found = choose(logits, mixed).tolist()
    assert found == [int(logits[0].argmax()), -1, -1, alone[3]]
