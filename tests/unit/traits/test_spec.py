"""A spec is sound or refused with the place, and its hash is that of what decides."""

import json
from pathlib import Path
from typing import Any

import pytest
from trait_specs import example_spec, write_spec

from personavec.errors import SpecError
from personavec.traits import TraitSpec, load_trait


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"questions": {"extraction": ["A?", "a ?"], "evaluation": ["C?", "D?"]}}, "repeat"),
        ({"questions": {"extraction": ["A?", "B?"], "evaluation": ["C?", "b"]}}, "overlap: 'b'"),
        ({"questions": {"extraction": ["A?"], "evaluation": ["C?", "D?"]}}, "extraction"),
        ({"instruction": []}, "instruction"),
        ({"instruction": [{"pos": "Be odd."}]}, r"instruction\.0\.neg"),
        ({"instruction": [{"pos": "", "neg": "x"}]}, r"instruction\.0\.pos"),
        ({"judge_instruction": [{"pos": "be ODD", "neg": "x"}]}, "repeats an eliciting prompt"),
        ({"monitoring": ["only one"]}, "eight graded prompts, not 1"),
        ({"name": "../odd"}, "name"),
        ({"questoins": {}}, "questoins"),
    ],
)
def test_an_unsound_spec_is_refused_with_the_place(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    """One line that names the file and the field or the question."""
    source = write_spec(tmp_path, example_spec(**changes))
    with pytest.raises(SpecError, match=named) as caught:
        load_trait(source)
    assert source in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_hash_changes_with_what_decides_an_extraction(tmp_path: Path) -> None:
    """And with nothing else: not with the file's name, its spacing, or checks of the judge."""
    plain = load_trait(write_spec(tmp_path, example_spec()))[0].hash
    checked = example_spec(checks=[{"question": "Q?", "answer": "A.", "shows": True}])
    assert load_trait(write_spec(tmp_path, checked))[0].hash == plain
    spaced = json.dumps(example_spec(), indent=3)
    assert load_trait(write_spec(tmp_path, spaced, "other.json"))[0].hash == plain
    changes: list[dict[str, Any]] = [
        {"description": "Being odd"},
        {"rubric": "x"},
        {"questions": {"extraction": ["A?", "B?"], "evaluation": ["D?", "C?"]}},
        {"judge_instruction": [{"pos": "x", "neg": "y"}]},
    ]
    hashes = {load_trait(write_spec(tmp_path, example_spec(**c)))[0].hash for c in changes}
    assert len(hashes | {plain}) == 5


def test_examples_of_eliciting_and_judging_pairs_stay_apart() -> None:
    """Neither repeats a question of the spec, and a judge's example none that elicits."""
    example = {"question": "Shared?", "pos": "Odd.", "neg": "Even."}

    def spec(eliciting: str, judging: str, extraction: str) -> TraitSpec:
        pair = {
            "pos": "Be odd.",
            "neg": "Be even.",
            "examples": [{**example, "question": eliciting}],
        }
        judge = {"pos": "Odd!", "neg": "Even!", "examples": [{**example, "question": judging}]}
        return TraitSpec.model_validate(
            {
                "name": "odd",
                "description": "Being odd.",
                "instruction": [pair],
                "judge_instruction": [judge],
                "questions": {"extraction": [extraction, "B?"], "evaluation": ["C?", "D?"]},
            }
        )

    assert spec("One?", "Two?", "A?").instruction[0].turns("neg") == (("One?", "Even."),)
    for eliciting, judging, extraction in (
        ("Same?", "same", "A?"),
        ("Same?", "Two?", "same?"),
        ("One?", "Same?", "same?"),
    ):
        with pytest.raises(ValueError, match="example repeats"):
            spec(eliciting, judging, extraction)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"instruction": [{"pos": f"Be odd {i}.", "neg": f"Be even {i}."} for i in range(2000)]},
            "instruction: Tuple should have at most 500 items",
        ),
        (
            {
                "questions": {
                    "extraction": ["A?", "B?"],
                    "evaluation": [f"{i}?" for i in range(9999)],
                }
            },
            "questions.evaluation: Tuple should have at most 2000 items",
        ),
        (
            {"questions": [f"What is {i}?" for i in range(100_000)]},
            "questions.extraction: Tuple should have at most 2000 items",
        ),
    ],
    ids=["pairs", "questions", "the reference project's questions"],
)
def test_a_spec_that_is_too_large_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as raised:
        load_trait(write_spec(tmp_path, example_spec(**changes)))
    assert "\n" not in str(raised.value)
