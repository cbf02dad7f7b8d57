"""The highest turns: whatever the order, those that are highest in the end were among them."""

import pyarrow as pa
from hypothesis import given, strategies as st

from personavec.monitor.extremes import Extremes, TurnText, with_texts

#: Few values, so that many are equal; None for a turn without an answer.
sigmas = st.lists(st.sampled_from([None, -2.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=40)


def table(turns: list[tuple[int, float | None]]) -> pa.Table:
    return pa.table(
        {
            "index": [row for row, _ in turns],
            "message": [1] * len(turns),
            "odd_response_mean_sigma": pa.array([sigma for _, sigma in turns], pa.float64()),
        }
    )


@given(values=sigmas, most=st.integers(0, 5), width=st.integers(1, 7), seed=st.randoms())
def test_the_highest_were_among_the_highest_so_far(
    values: list[float | None], most: int, width: int, seed: object
) -> None:
    """Of equal turns the first of the log count, as in the list that is shown."""
    turns = list(enumerate(values))
    windows = [turns[i : i + width] for i in range(0, len(turns), width)]
    seed.shuffle(windows)  # pyright: ignore[reportAttributeAccessIssue]
    extremes = Extremes(["odd"], most)
    kept = set()
    for window in windows:
        extremes.add(table(window))
        kept |= {place for place in extremes.places() if place[0] in dict(window)}
    known = [(row, sigma) for row, sigma in turns if sigma is not None]
    highest = sorted(known, key=lambda turn: (-turn[1], turn[0]))[:most]
    assert extremes.places() == {(row, 1) for row, _ in highest}
    assert extremes.places() <= kept


def test_a_text_comes_back_as_it_was_kept() -> None:
    """A lone surrogate too, which Arrow's strings cannot hold."""
    text = TurnText("half \ud83d?", (("Ä", (1.5, -0.25)), ("pfel", (0.0, 3.0))))
    kept = with_texts(table([(0, 1.0), (1, 2.0)]), {(1, 1): text}).column("shown").to_pylist()
    assert kept[0] is None
    assert TurnText.from_json(kept[1]) == text
    assert [piece.sigma for piece in text.along(1)] == [-0.25, 3.0]
