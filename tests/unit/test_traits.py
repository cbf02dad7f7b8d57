"""Bundled specs are complete, other people's load, and unsound ones are refused with the place."""

import json
from pathlib import Path
from typing import Any

import pytest

from personavec.errors import SpecError
from personavec.traits import (
    TraitSpec,
    bundled_traits,
    lint,
    load_trait,
    neutral_prompts,
    question_bank,
    template_spec,
)

NAMES = [
    "apathetic",
    "evil",
    "hallucinating",
    "humorous",
    "impolite",
    "optimistic",
    "sycophantic",
]


def example(**changes: Any) -> dict[str, Any]:
    return {
        "name": "odd",
        "description": "Being odd.",
        "instruction": [{"pos": "Be odd.", "neg": "Be ordinary."}],
        "questions": {"extraction": ["A?", "B?"], "evaluation": ["C?", "D?"]},
        **changes,
    }


def write(folder: Path, data: Any, name: str = "odd.json") -> str:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), "utf-8")
    return str(path)


def test_the_seven_traits_are_bundled() -> None:
    """Exactly these."""
    assert bundled_traits() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_spec_is_complete(name: str) -> None:
    """5 pairs, 3 judge pairs, 20 + 20 questions, 8 monitoring prompts, a rubric; no warnings."""
    spec, origin = load_trait(name)
    assert (spec.name, origin) == (name, "bundled")
    assert (len(spec.instruction), len(spec.judge_instruction)) == (5, 3)
    assert (len(spec.questions.extraction), len(spec.questions.evaluation)) == (20, 20)
    assert len(spec.monitoring) == 8
    assert "{question}" in spec.rubric
    assert "{answer}" in spec.rubric
    assert lint(spec) == []


def test_the_banks_are_large_and_without_repetition() -> None:
    """At least 120 everyday questions; enough neutral prompts for a baseline."""
    assert len(question_bank()) >= 120
    assert len(neutral_prompts()) >= 48
    for bank in (question_bank(), neutral_prompts()):
        assert len({q.lower() for q in bank}) == len(bank)


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
    source = write(tmp_path, example(**changes))
    with pytest.raises(SpecError, match=named) as caught:
        load_trait(source)
    assert source in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]", '"odd"', ""])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    """Named."""
    with pytest.raises(SpecError, match=r"odd\.json"):
        load_trait(write(tmp_path, text))


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    """Not a traceback of the operating system's."""
    with pytest.raises(SpecError, match="cannot be read"):
        load_trait(str(tmp_path / "none.json"))
    (tmp_path / "latin.json").write_bytes(b'{"name": "\xe9"}')
    with pytest.raises(SpecError, match="cannot be read"):
        load_trait(str(tmp_path / "latin.json"))


def test_an_unknown_trait_lists_what_there_is_and_what_to_do() -> None:
    """All names, and the way without a spec."""
    with pytest.raises(SpecError, match="unknown trait 'grumpy'") as caught:
        load_trait("grumpy")
    assert all(name in str(caught.value) for name in NAMES)
    assert "--description" in str(caught.value)


def test_the_reference_projects_file_loads(tmp_path: Path) -> None:
    """`instruction`, one list of questions, `eval_prompt`: first half extracts, second tests."""
    questions = [f"Question number {i}?" for i in range(40)]
    data = {
        "instruction": [{"pos": f"Be odd, {i}.", "neg": f"Be even, {i}."} for i in range(5)],
        "questions": questions,
        "eval_prompt": "Rate {question} and {answer}.",
    }
    spec, origin = load_trait(write(tmp_path, data, "very_odd.json"))
    assert (spec.name, spec.description, origin) == ("very_odd", "very odd", "file")
    assert list(spec.questions.extraction) == questions[:20]
    assert list(spec.questions.evaluation) == questions[20:]
    assert spec.rubric == data["eval_prompt"]
    assert spec.judge_instruction == ()
    with pytest.raises(SpecError, match="at least 4 questions"):
        load_trait(write(tmp_path, {**data, "questions": questions[:3]}, "few.json"))


def test_a_name_and_a_description_make_a_whole_spec() -> None:
    """Without an API; it lints clean, no question names the trait, placeholders are filled."""
    spec, origin = load_trait("weather", "being obsessed with the sky {and} its moods")
    assert origin == "template"
    assert lint(spec) == []
    assert (len(spec.instruction), len(spec.judge_instruction)) == (5, 3)
    assert (len(spec.questions.extraction), len(spec.questions.evaluation)) == (20, 20)
    texts = [p for pair in spec.instruction for p in (pair.pos, pair.neg)]
    assert all("{a}" not in t and "{d}" not in t and "{n}" not in t for t in texts)
    assert all("obsessed with the sky {and} its moods." in t for t in texts)
    every = [*spec.questions.extraction, *spec.questions.evaluation]
    assert not [q for q in every if "weather" in q.lower()]


@pytest.mark.parametrize(
    ("name", "description"), [("", "x"), ("odd", "  "), ("a/b", "x"), ("x" * 99, "x")]
)
def test_a_template_needs_a_sound_name_and_description(name: str, description: str) -> None:
    """A name becomes a folder's."""
    with pytest.raises(SpecError, match="name"):
        template_spec(name, description)


def test_the_hash_changes_with_what_decides_an_extraction(tmp_path: Path) -> None:
    """And with nothing else: not with the file's name, its spacing, or checks of the judge."""
    plain = load_trait(write(tmp_path, example()))[0].hash
    checked = example(checks=[{"question": "Q?", "answer": "A.", "shows": True}])
    assert load_trait(write(tmp_path, checked))[0].hash == plain
    spaced = json.dumps(example(), indent=3)
    assert load_trait(write(tmp_path, spaced, "other.json"))[0].hash == plain
    changes: list[dict[str, Any]] = [
        {"description": "Being odd"},
        {"rubric": "x"},
        {"questions": {"extraction": ["A?", "B?"], "evaluation": ["D?", "C?"]}},
        {"judge_instruction": [{"pos": "x", "neg": "y"}]},
    ]
    hashes = {load_trait(write(tmp_path, example(**c)))[0].hash for c in changes}
    assert len(hashes | {plain}) == 5


LINTS: list[tuple[dict[str, Any], str]] = [
    ({"instruction": [{"pos": "one two three four", "neg": "one"}]}, "4.0 times as long"),
    ({}, "only 2 extraction questions"),
    ({}, "only 1 instruction pairs"),
    ({}, "no judge pairs"),
    ({}, "no rubric"),
    (
        {"questions": {"extraction": ["Is it odd?", "B?"], "evaluation": ["C?", "D?"]}},
        "names the trait",
    ),
    (
        {
            "questions": {
                "extraction": ["What is your favourite colour?", "B?"],
                "evaluation": ["What is your own favourite colour?", "D?"],
            }
        },
        "near-duplicate",
    ),
]


@pytest.mark.parametrize(("changes", "warning"), LINTS)
def test_lint_warns_of_what_may_mislead(
    tmp_path: Path, changes: dict[str, Any], warning: str
) -> None:
    """Each kind of warning, from the smallest spec that deserves it."""
    found = lint(load_trait(write(tmp_path, example(**changes)))[0])
    assert any(warning in line for line in found)


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
