"""The spans that explain a row's score."""

from itertools import pairwise

import torch

from personavec.screen.explain import top_spans


def test_top_spans_are_the_highest_and_apart() -> None:
    values = torch.zeros(40)
    values[10:13], values[30:33] = 5.0, 3.0
    assert top_spans(values, width=3, n=2) == [(10, 13), (30, 33)]
    assert top_spans(torch.ones(2)) == [(0, 2)]
    spans = top_spans(torch.rand(50), width=6, n=3)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
