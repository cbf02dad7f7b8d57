"""The highest turns: whatever the order, those that are highest in the end were among them."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given, strategies as st

from personavec import LoadedModel, PersonaVector
from personavec.data import DataRow, Message
from personavec.model import Encoded, encode
from personavec.model.engine import TransformersEngine
from personavec.monitor import gauge
from personavec.monitor.extremes import Extremes, TurnText, turn_texts, with_texts
from personavec.monitor.readings import project_encoded

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


def test_pieces_of_a_batch_are_those_of_a_forward_of_each_text_alone(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    """Up to the rounding of what is kept. Texts of many lengths, so that most are padded."""
    along = gauge([random_vector(llama, 1, "one"), random_vector(llama, 3, "two")], llama)
    answers = ["So. " * (1 + i % 7) + "And no more."[: i % 5] for i in range(24)]
    rows = []
    for i, answer in enumerate(answers):
        asked: Message = {"role": "user", "content": f"What of {i}?"}
        talk = DataRow(i, f"r{i}", (asked, {"role": "assistant", "content": answer}))
        row = encode(llama.chat, talk, context=llama.context)
        assert isinstance(row, Encoded)
        rows.append(row)
    batched = project_encoded(TransformersEngine(llama), rows, along)
    for row, values, answer in zip(rows, batched, answers, strict=True):
        shown = turn_texts(llama, along, row, values, {1})[row.row.index, 1]
        assert "".join(text for text, _ in shown.pieces) == answer
        [text], [turn] = row.texts, row.texts[0].turns
        ids = torch.from_numpy(text.ids.astype(np.int64))[None]
        with torch.no_grad():
            states = llama.model(ids, output_hidden_states=True).hidden_states
        found = zip(along.directions.layers, along.directions.unit, strict=True)
        alone = torch.stack([states[layer][0] @ unit for layer, unit in found], -1)
        sigmas = along.response_sigmas(alone[turn.start : turn.stop])
        kept = torch.tensor([own for _, own in shown.pieces])
        torch.testing.assert_close(kept, sigmas, atol=0.0051, rtol=0)
        torch.testing.assert_close(values[0], alone, atol=1e-4, rtol=1e-4)
