"""Coherence on sequences of known likelihood and repetition."""

import pytest
import torch
from hypothesis import given, strategies as st

from personavec.judges.coherence import coherence, repeated_share


def test_coherence_is_two_sided() -> None:
    """Fluent text is fine; too unlikely is salad, too likely or repeating is a loop."""
    varied, loop = list(range(40)), [1, 2, 3] * 13
    assert coherence(torch.full((40,), -1.2), varied) > 90
    assert coherence(torch.full((40,), -6.0), varied) < 5
    assert coherence(torch.full((40,), -0.01), varied) < 5
    assert coherence(torch.full((39,), -1.2), loop) < 5
    # A short answer such as "Yes." may be as likely as it likes.
    assert coherence(torch.full((3,), -0.01), [1, 2, 3]) > 90


@given(st.lists(st.integers(0, 3), max_size=30))
def test_repeated_share_counts_trigrams_seen_before(ids: list[int]) -> None:
    """Against a count by hand."""
    seen: set[tuple[int, ...]] = set()
    again = 0
    for i in range(len(ids) - 2):
        gram = tuple(ids[i : i + 3])
        again += gram in seen
        seen.add(gram)
    assert repeated_share(ids) == pytest.approx(again / max(1, len(ids) - 2))
