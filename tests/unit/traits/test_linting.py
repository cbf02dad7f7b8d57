"""What lint warns of."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from trait_specs import example_spec, write_spec

from personavec.traits import TraitSpec, flaws, lint, linting, load_trait

LINTS: list[tuple[dict[str, Any], str]] = [
    ({"instruction": [{"pos": "one two three four", "neg": "one"}]}, "4.0 times as long"),
    ({}, "only 2 extraction questions"),
    ({}, "only 1 instruction pair"),
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
        "the halves overlap, near-duplicate",
    ),
    (
        {
            "questions": {
                "extraction": ["Why is my bread so dense?", "Does my bread come out dense?"],
                "evaluation": ["C?", "D?"],
            }
        },
        "near-duplicate questions: 'Why is my bread so dense?' and 'Does",
    ),
    (
        {
            "name": "sycophantic",
            "questions": {"extraction": ["Is a sycophant bad?", "B?"], "evaluation": ["C?", "D?"]},
        },
        "names the trait",
    ),
    (
        {
            "questions": {
                "extraction": ["A far longer question than others?", "B?"],
                "evaluation": ["C?", "D?"],
            }
        },
        "extraction questions are 3.5 times as long",
    ),
    (
        {
            "instruction": [
                {"pos": "Be odd in all your answers.", "neg": "Be even in all your answers."},
                {"pos": "Odd.", "neg": "Even and nothing else."},
                {"pos": "You are odd beyond all measure.", "neg": "You are even."},
            ]
        },
        "pair 2: the positive prompt is 0.2 times as long",
    ),
    (
        {
            "instruction": [
                {
                    "pos": "Be odd in every one of your answers, always and to all users.",
                    "neg": "Be even in every one of your answers, always and to all users.",
                }
            ]
        },
        "pair 1: its two sides hardly differ",
    ),
    (
        {
            "instruction": [{"pos": "Be odd in your answers.", "neg": "Stay ordinary."}],
            "judge_instruction": [{"pos": "Be very odd in your answers.", "neg": "No oddness."}],
        },
        "judge pair 1 nearly repeats another",
    ),
    (
        {
            "instruction": [
                {
                    "pos": "Be odd.",
                    "neg": "Be ordinary.",
                    "examples": [{"question": "Q?", "pos": "a b c d", "neg": "a b"}],
                }
            ]
        },
        "positive examples are 2.0 times as long",
    ),
]


@pytest.mark.parametrize(("changes", "warning"), LINTS)
def test_lint_warns_of_what_may_mislead(
    tmp_path: Path, changes: dict[str, Any], warning: str
) -> None:
    """Each kind of warning, from the smallest spec that deserves it."""
    found = lint(load_trait(write_spec(tmp_path, example_spec(**changes)))[0])
    assert any(warning in line for line in found)


@pytest.mark.parametrize(
    ("name", "question"),
    [("evil", "Were medieval towns loud?"), ("power seeking", "How can I save power?")],
)
def test_a_question_that_holds_a_piece_of_the_name_does_not_name_the_trait(
    name: str, question: str
) -> None:
    """Nor does a question that is like another in its frame alone."""
    other = "How can I save my job?"
    questions = {"extraction": [question, other], "evaluation": ["C?", "D?"]}
    found = lint(TraitSpec.model_validate(example_spec(name=name, questions=questions)))
    assert not [line for line in found if "names the trait" in line or "duplicate" in line]


def test_a_flaw_points_to_what_would_have_to_change() -> None:
    """The later of two near-duplicates, with its index."""
    questions = {
        "extraction": ["Why is my bread dense?", "B?"],
        "evaluation": ["C?", "Dense bread?"],
    }
    found = flaws(TraitSpec.model_validate(example_spec(questions=questions)))
    assert [(f.part, f.index) for f in found if "duplicate" in f.why] == [("evaluation", 1)]


def test_a_large_spec_is_checked_in_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two million pairs of questions a few are looked at; the one that repeats is found."""
    rng = random.Random(0)
    words = [f"{first}{second}ing" for first in "bdfgklmnprst" for second in range(400)]
    some = [" ".join(rng.sample(words, 3)) for _ in range(4000)]
    asked = [
        f"How would you go about {what} in {where}?"
        for what, where in zip(some[::2], some[1::2], strict=True)
    ]
    asked[1999] = asked[17].replace("How would you", "And how would I")
    pairs = [
        {
            "pos": f"Be odd with {' '.join(rng.sample(words, 6))}.",
            "neg": f"Never {i} at all, be even.",
        }
        for i in range(500)
    ]
    spec = TraitSpec.model_validate(
        example_spec(
            instruction=pairs, questions={"extraction": asked[:1000], "evaluation": asked[1000:]}
        )
    )
    compared = 0

    def counted(first: set[str], second: set[str]) -> float:
        nonlocal compared
        compared += 1
        return overlap(first, second)

    overlap = linting._overlap
    monkeypatch.setattr(linting, "_overlap", counted)
    [found] = [flaw for flaw in flaws(spec) if "near-duplicate" in flaw.why]
    assert (found.part, found.index) == ("evaluation", 999)
    assert compared < 50 * 2000


TEXTS = st.lists(
    st.lists(
        st.sampled_from(["how", "why", "tea", "bread", "dense", "goes", "well", "today"]),
        max_size=7,
    ),
    min_size=4,
    max_size=14,
    unique_by=lambda words: " ".join(words),
)


@settings(deadline=None, max_examples=100)
@given(texts=TEXTS)
def test_near_repetitions_are_those_that_comparing_all_finds(texts: list[list[str]]) -> None:
    for least, kind in ((linting._REPEATS, linting._words), (0.5, linting._content)):
        sets = [kind(" ".join(words)) for words in texts]
        for number, candidates in enumerate(linting._candidates(sets, least)):
            alike = {
                other
                for other in range(number)
                if sets[number] and linting._overlap(sets[number], sets[other]) >= least
            }
            assert alike <= candidates
