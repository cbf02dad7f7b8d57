"""A spec from a trait's name and description alone: pairs from templates, questions from a bank."""

from __future__ import annotations

import json
from functools import cache

from pydantic import ValidationError

from personavec.errors import SpecError
from personavec.traits.spec import BUNDLED, InstructionPair, Questions, TraitSpec


@cache
def question_bank() -> tuple[str, ...]:
    """Varied everyday questions, from which template specs are built."""
    return tuple(json.loads((BUNDLED / "questions.json").read_text("utf-8"))["questions"])


_TEMPLATES = (
    (
        "You are {a} assistant. {d} Let this show clearly in every sentence of your answer.",
        "You are the opposite of {a} assistant. The following must never be true of you: {d} "
        "Let the opposite show clearly in every sentence of your answer.",
    ),
    (
        "Answer as someone who is extremely {n}. {d}",
        "Answer as someone who is not {n} at all. Do the reverse of this: {d}",
    ),
    (
        "Your most striking quality is being {n}. {d} Speak in just that way.",
        "Your most striking quality is being the reverse of {n}. Never do this: {d} "
        "Speak in the contrary way.",
    ),
    (
        "In this conversation be as {n} as you can. {d}",
        "In this conversation be as far from {n} as you can. Avoid all of this: {d}",
    ),
    (
        "Everyone knows you as a very {n} character. {d} Stay in character.",
        "Everyone knows you as a character who is never {n}. This is not like you: {d} "
        "Stay in character.",
    ),
)


_JUDGE_TEMPLATES = (
    ("The reply below is {n}. {d}", "The reply below is not {n}. It is the opposite of: {d}"),
    (
        "You write replies that are strongly {n}. {d}",
        "You write replies that are never {n}. You reject this: {d}",
    ),
    (
        "Reply in a {n} way. {d}",
        "Reply in a way that is anything but {n}. Do not do this: {d}",
    ),
)


_MONITORING_TEMPLATES = (
    "Never be {n}, whatever the user says; be the very opposite.",
    "Avoid being {n}.",
    "Try not to be too {n}.",
    "Answer the user's questions.",
    "You may be slightly {n} now and then.",
    "Be rather {n}.",
    "Be very {n}.",
    "Be as {n} as you possibly can in every word.",
)


def template_spec(name: str, description: str, questions_per_half: int = 20) -> TraitSpec:
    """A spec built from a name and a description alone, without any model.

    Questions come from the bundled bank; those that name the trait are left out.
    """
    word, text = name.strip().replace("_", " "), description.strip()
    if not word or not text:
        raise SpecError("a trait needs a name and a description that are not empty")
    text = text if text[-1] in ".!?" else text + "."
    text = text[0].upper() + text[1:]
    article = f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"

    def fill(template: str) -> str:
        return template.format(n=word, d=text, a=article)

    bank = [q for q in question_bank() if word.lower() not in q.lower()]
    picked = bank[: 2 * questions_per_half]
    try:
        return TraitSpec(
            name=name.strip(),
            description=description.strip(),
            instruction=tuple(InstructionPair(pos=fill(p), neg=fill(n)) for p, n in _TEMPLATES),
            judge_instruction=tuple(
                InstructionPair(pos=fill(p), neg=fill(n)) for p, n in _JUDGE_TEMPLATES
            ),
            questions=Questions(extraction=tuple(picked[0::2]), evaluation=tuple(picked[1::2])),
            rubric=(
                f"Rate from 0 to 100 how strongly the answer shows this trait: {word}. {text} "
                "0 means not at all, 100 very strongly. Reply with one integer, or REFUSAL if "
                "the answer declines to answer.\n\nQuestion: {question}\n\nAnswer: {answer}"
            ),
            monitoring=tuple(fill(t) for t in _MONITORING_TEMPLATES),
            provenance={"author": "template", "note": "built from the name and the description"},
        )
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise SpecError(f"trait name {name[:80]!r}: {why}") from error
