"""Noise is a function of (seed, key, step, counter), uniform, and samples from the softmax."""

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
    counters = torch.arange(vocabulary)[None]
    return uniform_bits(row_keys(seeds), counters).numpy().astype(np.int64) % 2**32


def test_bits_are_those_of_the_hash_in_plain_integers() -> None:
    """Recomputed without torch, in Python's integers, for some tokens."""

    def low_bias(x: int) -> int:
        x = ((x ^ x >> 16) * 0x7FEB352D) % 2**32
        x = ((x ^ x >> 15) * 0x846CA68B) % 2**32
        return x ^ x >> 16

    [[first, second]] = row_keys([(3, "a", 7)]).tolist()
    counters = [0, 1, 2, 777, VOCABULARY - 1, -1, -200]
    found = uniform_bits(row_keys([(3, "a", 7)]), torch.tensor([counters]))[0].tolist()
    for counter, own in zip(counters, found, strict=True):
        x = low_bias(counter * 0x9E3779B9 % 2**32) ^ first % 2**32
        x = x * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) + second % 2**32
        x = x * 0x846CA68B % 2**32
        assert own % 2**32 == x ^ x >> 16


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


@pytest.mark.parametrize("vocabulary", [5, 256, 700, 2000])
def test_tokens_are_drawn_by_their_probabilities(vocabulary: int) -> None:
    """Over many steps; fails for one seed in a million. Some tokens are outside the nucleus."""
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 2
    logits[1] = -math.inf
    steps = 8_000
    draws = [Draw(Sampling(temperature=1.3, seed=4), "r", step) for step in range(steps)]
    found = choose(logits.expand(steps, -1), draws).bincount(minlength=vocabulary).double()
    expected = (logits.double() / 1.3).softmax(-1) * steps
    assert found[1] == 0
    often = expected >= 5
    counts = torch.cat([found[often], found[~often].sum()[None]])
    wanted = torch.cat([expected[often], expected[~often].sum()[None]])
    wanted, counts = wanted[wanted > 0], counts[wanted > 0]
    assert stats.chisquare(counts.numpy(), wanted.numpy()).pvalue > 1e-6


@few
@given(seed=st.integers(0, 1000), spread=st.sampled_from([0.0, 0.5, 3.0, 30.0]))
def test_choices_are_those_of_two_stages_in_plain_numbers(seed: int, spread: float) -> None:
    """Rows that nearly tie everywhere, and rows of one likely token; 700 tokens are 3 groups."""
    logits = torch.randn(24, 700, generator=torch.Generator().manual_seed(seed)) * spread
    logits += torch.arange(700) * 1e-6  # not all equal
    draws = [Draw(Sampling(temperature=1.3, seed=seed), f"r{i}", i) for i in range(24)]
    found = choose(logits, draws).tolist()
    for i, row in enumerate(logits.double() / 1.3):
        keys = row_keys([(seed, f"r{i}", i)])
        by_group = [row[group::3].logsumexp(-1) for group in range(3)]
        of_groups = gumbel(uniform_bits(keys, torch.tensor([[-1, -2, -3]])))[0]
        group = int((torch.stack(by_group) + of_groups).argmax())
        tokens = torch.arange(group, 700, 3)
        best = int((row[group::3] + gumbel(uniform_bits(keys, tokens[None]))[0]).argmax())
        assert found[i] == tokens[best]


def test_shared_noise_draws_alike_from_distributions_that_are_alike() -> None:
    """As often as where every token has its noise: paired differences stay as narrow."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 700, generator=generator) * 3
    other = logits + torch.randn(2000, 700, generator=generator) * 0.2
    draws = [Draw(Sampling(seed=2), "shared", step) for step in range(2000)]
    alike = float((choose(logits, draws) == choose(other, draws)).float().mean())
    apart = float((logits.softmax(-1) - other.softmax(-1)).abs().sum(-1).mean() / 2)
    uniform = torch.rand(2, 2000, 700, generator=generator, dtype=torch.float64)
    noise = -(-uniform[0].log()).log()
    whole = float(((logits + noise).argmax(-1) == (other + noise).argmax(-1)).float().mean())
    # At most one less the distance; independent noise draws alike far less often.
    error = 3 * math.sqrt(alike * (1 - alike) / 2000)
    assert whole - error < alike < 1 - apart + error
    own = [Draw(Sampling(seed=2), "own", step) for step in range(2000)]
    assert float((choose(logits, draws) == choose(other, own)).float().mean()) < alike / 2


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
