"""Bundled specs are complete, other people's load, and unsound ones are refused with the place."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personavec import traits
from personavec.errors import SpecError
from personavec.traits import (
    TraitSpec,
    bundled_traits,
    flaws,
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
    found = lint(load_trait(write(tmp_path, example(**changes)))[0])
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
    found = lint(TraitSpec.model_validate(example(name=name, questions=questions)))
    assert not [line for line in found if "names the trait" in line or "duplicate" in line]


def test_a_flaw_points_to_what_would_have_to_change() -> None:
    """The later of two near-duplicates, with its index."""
    questions = {
        "extraction": ["Why is my bread dense?", "B?"],
        "evaluation": ["C?", "Dense bread?"],
    }
    found = flaws(TraitSpec.model_validate(example(questions=questions)))
    assert [(f.part, f.index) for f in found if "duplicate" in f.why] == [("evaluation", 1)]


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
        load_trait(write(tmp_path, example(**changes)))
    assert "\n" not in str(raised.value)


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
        example(
            instruction=pairs, questions={"extraction": asked[:1000], "evaluation": asked[1000:]}
        )
    )
    compared = 0

    def counted(first: set[str], second: set[str]) -> float:
        nonlocal compared
        compared += 1
        return overlap(first, second)

    overlap = traits._overlap
    monkeypatch.setattr(traits, "_overlap", counted)
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
    for least, kind in ((traits._REPEATS, traits._words), (0.5, traits._content)):
        sets = [kind(" ".join(words)) for words in texts]
        for number, candidates in enumerate(traits._candidates(sets, least)):
            alike = {
                other
                for other in range(number)
                if sets[number] and traits._overlap(sets[number], sets[other]) >= least
            }
            assert alike <= candidates
