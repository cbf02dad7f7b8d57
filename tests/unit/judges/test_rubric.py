"""Rubrics are filled in as they are, or refused."""

import pytest

from personavec import TraitSpec
from personavec.errors import SpecError
from personavec.judges import (
    trait_rubric,
)
from personavec.judges.rubric import fill

RUBRIC = "Trait? Q: {question} A: {answer}"


def make_spec(rubric: str = RUBRIC) -> TraitSpec:
    return TraitSpec.model_validate(
        {
            "name": "odd",
            "description": "Being odd.",
            "instruction": [{"pos": "Odd.", "neg": "Even."}],
            "questions": {"extraction": ["A?", "B?"], "evaluation": ["C?", "D?"]},
            "rubric": rubric,
        }
    )


def test_texts_with_braces_are_filled_in_as_they_are() -> None:
    filled = fill("{question} | {answer} | {other} {}", "{answer}", "a {question} {0} {{x}} \\1")
    assert filled == "{answer} | a {question} {0} {{x}} \\1 | {other} {}"


@pytest.mark.parametrize(
    ("rubric", "message"), [("", "no rubric"), (" \n", "no rubric"), ("Rate it.", "no {answer}")]
)
def test_a_spec_without_a_usable_rubric_says_so(rubric: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        trait_rubric(make_spec(rubric))
