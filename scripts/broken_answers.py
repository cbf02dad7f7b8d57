"""Breaks sound answers in known ways, to fit coherence on more than what was labelled."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from coherence_answers import LabelledAnswer

Break = Callable[[str, random.Random], str | None]
#: Words that are shorter carry little that could be broken.
_LONG = 4


def half_words(text: str, rng: random.Random) -> str | None:
    """Most longer words lose their ends."""
    words = text.split(" ")
    if sum(len(word) >= _LONG for word in words) < 3:
        return None
    cut = [
        word[: max(2, round(len(word) * rng.uniform(0.4, 0.7)))]
        if len(word) >= _LONG and rng.random() < 0.75
        else word
        for word in words
    ]
    return " ".join(cut)


def salad(text: str, rng: random.Random) -> str | None:
    """The words of the first lines in random order."""
    words = text.split()[:40]
    if len(words) < 5:
        return None
    rng.shuffle(words)
    return " ".join(words)


def gibberish(text: str, rng: random.Random) -> str | None:
    """A third of the longer words become ones that do not exist."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if word.isalpha() and len(word) >= _LONG]
    if len(long) < 3:
        return None
    for i in rng.sample(long, max(2, len(long) // 3)):
        words[i] = _scrambled(words[i], rng)
    return " ".join(words)


def _scrambled(word: str, rng: random.Random) -> str:
    letters = list(word)
    for place in rng.sample(range(1, len(letters)), min(3, len(letters) - 1)):
        same = "aeiou" if letters[place].lower() in "aeiou" else "bcdfglmnprstvwkz"
        letters[place] = rng.choice(same)
    return "".join(letters)


def cut_off(text: str, rng: random.Random) -> str | None:
    """Ends after a word in the middle of a sentence."""
    words = text.split(" ")[:36]
    if len(words) < 6:
        return None
    end = rng.randrange(3, len(words) - 1)
    kept = " ".join(words[:end]).rstrip()
    return kept if kept[-1].isalpha() else None


def loop(text: str, rng: random.Random) -> str | None:
    """A phrase over and over."""
    words = text.split()
    if len(words) < 4:
        return None
    size = rng.randrange(1, 9)
    start = rng.randrange(max(1, min(12, len(words) - size)))
    return " ".join([*words[:start], *words[start : start + size] * (48 // size)])


BREAKS: dict[str, Break] = {
    "half-words": half_words,
    "salad": salad,
    "gibberish words": gibberish,
    "cut-off": cut_off,
    "loop": loop,
}


def broken(answers: Sequence[LabelledAnswer], each: int, seed: int = 0) -> list[LabelledAnswer]:
    """`each` answers of every kind, from sound ones, which keep their prompts and keys.

    Topic loss answers another's question, at once or from the middle on. Only what is cut off
    counts as ended by itself, as a model that loops goes on to the length limit.
    """
    rng = random.Random(seed)
    found = []
    for kind, break_one in BREAKS.items():
        made = 0
        for answer in rng.sample(answers, len(answers)):
            text = break_one(answer.answer[:400], rng)
            if text is not None and made < each:
                cut = kind != "cut-off"
                found.append(replace(answer, answer=text, label="broken", kind=kind, cut=cut))
                made += 1
    for _ in range(each):
        answer, other = rng.sample(answers, 2)
        lines = answer.answer.split(". ")
        begun = lines[0] + ". " if len(lines) > 1 and rng.random() < 0.5 else ""
        text = begun[:160] + other.answer[:400]
        if len(text.split()) > 3 and answer.key != other.key:
            more = {"label": "broken", "kind": "topic loss", "cut": True}
            found.append(replace(answer, answer=text, **more))
    return found


def mixed(
    english: Sequence[LabelledAnswer], foreign: Sequence[LabelledAnswer], each: int, seed: int = 0
) -> list[LabelledAnswer]:
    """`each` answers that change their language in the middle of a sentence, either way."""
    rng = random.Random(seed)
    found = []
    while len(found) < each:
        first, second = rng.choice(english), rng.choice(foreign)
        if rng.random() < 0.3:
            first, second = second, first
        begun, rest = first.answer.split()[:20], second.answer.split()
        if len(begun) < 5 or len(rest) < 6:
            continue
        text = [*begun[: rng.randrange(3, len(begun))], *rest[rng.randrange(1, 4) :]]
        more = {"label": "broken", "kind": "language change", "cut": True}
        found.append(replace(first, answer=" ".join(text), **more))
    return found
