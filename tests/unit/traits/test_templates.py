"""Specs that are made of a name and a description."""

import pytest

from personavec.errors import SpecError
from personavec.traits import lint, load_trait, neutral_prompts, question_bank, template_spec


def test_the_banks_are_large_and_without_repetition() -> None:
    """At least 120 everyday questions; enough neutral prompts for a baseline."""
    assert len(question_bank()) >= 120
    assert len(neutral_prompts()) >= 48
    for bank in (question_bank(), neutral_prompts()):
        assert len({q.lower() for q in bank}) == len(bank)


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
