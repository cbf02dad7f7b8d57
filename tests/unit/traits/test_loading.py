"""Bundled specs are complete, other people's load, and what is no spec is refused."""

from pathlib import Path

import pytest
from trait_specs import NAMES, write_spec

from personavec.errors import SpecError
from personavec.traits import bundled_traits, lint, load_trait


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


@pytest.mark.parametrize("text", ["{", "[1]", '"odd"', ""])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    """Named."""
    with pytest.raises(SpecError, match=r"odd\.json"):
        load_trait(write_spec(tmp_path, text))


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
    spec, origin = load_trait(write_spec(tmp_path, data, "very_odd.json"))
    assert (spec.name, spec.description, origin) == ("very_odd", "very odd", "file")
    assert list(spec.questions.extraction) == questions[:20]
    assert list(spec.questions.evaluation) == questions[20:]
    assert spec.rubric == data["eval_prompt"]
    assert spec.judge_instruction == ()
    with pytest.raises(SpecError, match="at least 4 questions"):
        load_trait(write_spec(tmp_path, {**data, "questions": questions[:3]}, "few.json"))
