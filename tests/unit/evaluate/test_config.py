"""Options that name what steers and how often questions are asked."""

from pathlib import Path

import pytest

from personavec.errors import UsageError
from personavec.evaluate.config import EvaluateInputs
from personavec.vectors import load_vector

TWO = ("evil", "humorous")


def test_one_coefficient_is_for_all_vectors_several_are_one_each() -> None:
    vectors = [load_vector(name) for name in TWO]
    for given, expected in (((2.0,), (2.0, 2.0)), ((2.0, -1.0), (2.0, -1.0))):
        found = EvaluateInputs(trait=("evil",), vectors=TWO, coefficient=given).steered_by()
        assert [each.vector.hash for each in found] == [vector.hash for vector in vectors]
        assert tuple(each.coefficient for each in found) == expected


def test_a_cap_alone_adds_nothing() -> None:
    (found,) = EvaluateInputs(trait=("evil",), vectors=("evil",), cap=99.0).steered_by()
    assert (found.coefficient, found.cap) == (0.0, 99.0)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"coefficient": (1.0,)}, "need --vectors"),
        ({"vectors": TWO}, "needs --coefficient"),
        ({"vectors": TWO, "coefficient": (1.0, 2.0, 3.0)}, "3 numbers for 2"),
        ({"vectors": TWO, "coefficient": (1.0,), "layer": 99}, "--layer 99: the evil vector has"),
    ],
)
def test_what_cannot_steer_is_refused(given: dict, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        EvaluateInputs(trait=("evil",), **given).steered_by()


def test_questions_are_asked_of_every_model_with_and_without_cues() -> None:
    for compare_to, cue, times in (
        *((None, None, 1), ("other", None, 2)),
        *((None, Path("rows.jsonl"), 2), ("other", Path("rows.jsonl"), 4)),
    ):
        inputs = EvaluateInputs(trait=("evil",), compare_to=compare_to, cue=cue)
        assert inputs.repeats == times
