"""Parts that every report has: what it says in short, answers side by side, how to go on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from markupsafe import Markup

from personavec.report.page import Content, code, element, section

#: What a headline or an answer is drawn as; a word or a sign says the same.
Look: TypeAlias = Literal["good", "bad", "open", ""]
Side: TypeAlias = Literal["toward", "away", ""]

#: Characters of an answer in the opening of a report.
_SHORT = 700
#: And of a headline.
_HEADLINE = 260


@dataclass(frozen=True)
class Answer:
    """A text of a model, with who wrote it and how it was scored."""

    title: str
    text: Content
    """An empty text is shown as one."""
    scores: Content = None
    side: Side = ""


@dataclass(frozen=True)
class Pair:
    """A question with answers to compare."""

    question: str
    answers: Sequence[Answer]


def opening(
    measured: Content,
    conclusion: str,
    *,
    look: Look = "",
    notes: Iterable[str] = (),
    picture: Markup | None = None,
    pair: Pair | None = None,
) -> Markup:
    """What was measured, what it says, one picture, and answers to one question."""
    return section(
        "In short",
        "in-short",
        element("p", measured, class_="measured"),
        *_concluded(conclusion, look),
        noted(notes),
        picture,
        None if pair is None else _shown(pair),
    )


def _concluded(conclusion: str, look: Look) -> list[Markup]:
    """The conclusion as a headline; of a long one, the first sentence."""
    first, rest = conclusion, ""
    if len(conclusion) > _HEADLINE:
        first, stop, rest = conclusion.partition(". ")
        first += stop.strip()
    headline = element("p", first, class_=f"headline {look}".strip())
    return [headline, element("p", rest)] if rest else [headline]


def pictured_above() -> Markup:
    """What stands in a section whose picture is the opening's."""
    return element(
        "p", "Its picture stands ", element("a", "at the top of this page", href="#in-short"), "."
    )


def noted(notes: Iterable[str]) -> Markup | None:
    """What a reader must know before believing a number."""
    found = [element("p", note) for note in notes]
    return element("div", *found, class_="note") if found else None


def _shown(pair: Pair) -> Markup:
    found = [replace(each, text=_shortened(each.text)) for each in pair.answers]
    question = element("p", element("strong", clipped(pair.question, _SHORT)), dir="auto")
    return element("div", element("h3", "One example"), question, answers(found), class_="shown")


def _shortened(text: Content) -> Content:
    """A long text cut; markup is left whole, since half of it is none."""
    if isinstance(text, Markup) or not isinstance(text, str):
        return text
    return clipped(text, _SHORT)


def answers(found: Iterable[Answer]) -> Markup:
    """Answers side by side, below each other where there is no room."""
    return element("div", *map(_answer, found), class_="answers")


def _answer(answer: Answer) -> Markup:
    empty = isinstance(answer.text, str) and not answer.text.strip()
    text = (
        element("p", element("span", "(empty response)", class_="missing"))
        if empty
        else element("p", answer.text, class_="response", dir="auto")
    )
    return element(
        "div",
        element("h3", answer.title),
        element("p", answer.scores, class_="scores") if answer.scores else None,
        text,
        class_=f"answer {answer.side}".strip(),
    )


def use_it(intro: Content, ways: Iterable[tuple[str, str]]) -> Markup:
    """How to go on, as code to copy: (where it runs, the code)."""
    return section(
        "Use it",
        "use-it",
        element("p", intro),
        *(
            element("div", element("h3", where), element("pre", code(text), tabindex="0"))
            for where, text in ways
        ),
    )


def clipped(text: str, limit: int) -> str:
    """The text, or its beginning with a mark that more follows."""
    return text if len(text) <= limit else text[:limit] + " …"
