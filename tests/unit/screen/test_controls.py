"""The difference at equal lengths."""

import numpy as np

from personavec.screen.controls import matched_mean
from personavec.screen.flagging import TraitFlags
from personavec.screen.results import MatchedMean
from personavec.screen.table import Scores
from personavec.screen.trait_scores import TraitScores


def test_the_difference_at_equal_lengths_holds_the_truth() -> None:
    """A prompt has rows of many lengths. Nominally 95%: 185 of 200 or fewer once in 30 times."""
    rng = np.random.default_rng(0)

    def side(n: int) -> tuple[Scores, np.ndarray]:
        prompt = np.repeat(np.arange(n), 8)
        length = rng.integers(5, 60, len(prompt))
        shared = rng.normal(size=n)[prompt]
        values = 0.05 * length + shared + 0.3 * rng.normal(size=len(prompt))
        nothing, zeros = np.zeros((len(prompt), 1), np.float32), np.zeros(len(prompt), np.int64)
        scores = Scores(
            dataset=zeros.astype(np.int32),
            index=zeros,
            prompt=prompt,
            n_tokens=length,
            projection=nothing,
            value=nothing,
            rejected_projection=nothing,
            judged=nothing,
            groups={},
            rejects=(),
            content=(),
        )
        return scores, values

    held = 0
    for _ in range(200):
        (scores, value), (reference, other) = side(30), side(40)
        flags = TraitFlags(np.zeros(len(value), bool), None)
        own = TraitScores(0, value, value, other, flags, 1.0)
        found = matched_mean(scores, reference, own)
        assert isinstance(found, MatchedMean)
        assert found.low is not None
        assert found.high is not None
        assert found.n == len(value)
        held += found.low <= 0 <= found.high
    assert held >= 184
