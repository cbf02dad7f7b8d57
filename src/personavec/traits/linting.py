"""What is wrong with a spec: uneven pairs, leaking questions, near repeats."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from personavec.traits.spec import InstructionPair, TraitSpec, folded
from personavec.wording import plural

Part = Literal["instruction", "judge_instruction", "extraction", "evaluation"]

#: Shares of common words above which two texts are near-duplicates. The two sides of a pair have
#: the same frame, so their limit is higher.
_REPEATS, _HARDLY_DIFFERS = 0.7, 0.8
#: The limit for content words, which are compared by their first letters.
_REPEATS_IN_CONTENT, _STEM = 0.5, 5
#: Factors in length from which a warning is given: for all texts together, and for one pair.
_SKEW, _PAIR_SKEW = 1.5, 2.0


_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a about an and are as at be been but by can could did do does for from had has have how "
        "i if in into is it its just me my not of on or our should so some than that the their "
        "them then there they this to up us was we were what when where which who why will with "
        "would you your",
    )
)


@dataclass(frozen=True)
class Flaw:
    """A warning in one line, and the entry of the spec that would have to be rewritten.

    `index` counts from 0 within `part`; both are None where no single entry is to blame.
    """

    why: str
    part: Part | None = None
    index: int | None = None


def lint(spec: TraitSpec) -> list[str]:
    """Warnings about a spec that is valid but may mislead: each a line a person can act on."""
    return [flaw.why for flaw in flaws(spec)]


def flaws(spec: TraitSpec) -> list[Flaw]:
    """What `lint` warns of, with the places."""
    found = [*_unequal_lengths(spec), *_question_flaws(spec), *_pair_flaws(spec)]
    if len(spec.instruction) < 5:
        pairs = plural(len(spec.instruction), "instruction pair")
        found.append(Flaw(f"only {pairs}; the method uses 5"))
    if not spec.judge_instruction:
        found.append(Flaw("no judge pairs: rollouts are judged with the other eliciting pairs"))
    if not spec.rubric:
        found.append(Flaw("no rubric: a rubric judge cannot score this trait"))
    return found


def _unequal_lengths(spec: TraitSpec) -> list[Flaw]:
    """Length differences that would become part of the vector."""
    found: list[Flaw] = []
    prompts = [_words_of((pair.pos,), (pair.neg,)) for pair in spec.instruction]
    examples = [
        _words_of([e.pos for e in pair.examples], [e.neg for e in pair.examples])
        for pair in spec.instruction
    ]
    for what, lengths in (
        ("positive prompts are {} times as long as negative ones", prompts),
        ("positive examples are {} times as long as negative ones", examples),
    ):
        ratio = _ratio(sum(p for p, _ in lengths), sum(n for _, n in lengths))
        if _skewed(ratio, _SKEW):
            skews = [abs(math.log(_ratio(*both))) for both in lengths]
            worst = skews.index(max(skews))
            found.append(Flaw(what.format(f"{ratio:.1f}"), "instruction", worst))
    if not found:
        for index, both in enumerate(prompts):
            if _skewed(_ratio(*both), _PAIR_SKEW):
                why = f"pair {index + 1}: the positive prompt is {_ratio(*both):.1f} times as long"
                found.append(Flaw(f"{why} as the negative one", "instruction", index))
    extraction, evaluation = _words_of(spec.questions.extraction, spec.questions.evaluation)
    ratio = _ratio(
        extraction / len(spec.questions.extraction), evaluation / len(spec.questions.evaluation)
    )
    if _skewed(ratio, _SKEW):
        found.append(
            Flaw(f"extraction questions are {ratio:.1f} times as long as evaluation questions")
        )
    return found


def _question_flaws(spec: TraitSpec) -> list[Flaw]:
    found: list[Flaw] = []
    every: list[tuple[Part, int, str]] = []
    halves: tuple[tuple[Part, tuple[str, ...]], ...] = (
        ("extraction", spec.questions.extraction),
        ("evaluation", spec.questions.evaluation),
    )
    for half, questions in halves:
        for index, question in enumerate(questions):
            every.append((half, index, question))
        if len(questions) < 20:
            found.append(Flaw(f"only {len(questions)} {half} questions; the method uses 20"))
    for half, index, question in every:
        if _names(spec.name, question):
            found.append(Flaw(f"{half} question names the trait: {question!r}", half, index))
    words = [_words(question) for _, _, question in every]
    content = [_content(question) for _, _, question in every]
    by_words, by_content = _candidates(words, _REPEATS), _candidates(content, _REPEATS_IN_CONTENT)
    for number, (half, index, question) in enumerate(every):
        for other in sorted(by_words[number] | by_content[number]):
            earlier_half, _, earlier = every[other]
            if _nearly_repeats(words[number], words[other], content[number], content[other]):
                what = (
                    "near-duplicate questions"
                    if half == earlier_half
                    else "the halves overlap, near-duplicate questions"
                )
                found.append(Flaw(f"{what}: {earlier!r} and {question!r}", half, index))
                break
    return found


def _pair_flaws(spec: TraitSpec) -> list[Flaw]:
    """Pairs whose two sides hardly differ, and pairs that nearly repeat an earlier one."""
    found: list[Flaw] = []
    sides = [_words(pair.pos) for pair in (*spec.instruction, *spec.judge_instruction)]
    candidates = _candidates(sides, _REPEATS)
    kinds: tuple[tuple[Part, str, tuple[InstructionPair, ...]], ...] = (
        ("instruction", "pair", spec.instruction),
        ("judge_instruction", "judge pair", spec.judge_instruction),
    )
    number = 0
    for part, name, pairs in kinds:
        for index, pair in enumerate(pairs):
            if _overlap(_words(pair.pos), _words(pair.neg)) > _HARDLY_DIFFERS:
                why = f"{name} {index + 1}: its two sides hardly differ: {pair.pos!r}"
                found.append(Flaw(why, part, index))
            elif any(_overlap(sides[number], sides[i]) > _REPEATS for i in candidates[number]):
                why = f"{name} {index + 1} nearly repeats another: {pair.pos!r}"
                found.append(Flaw(why, part, index))
            number += 1
    return found


def _words_of(first: Sequence[str], second: Sequence[str]) -> tuple[int, int]:
    """Numbers of words in two groups of texts."""
    return sum(len(t.split()) for t in first), sum(len(t.split()) for t in second)


def _ratio(first: float, second: float) -> float:
    """The ratio of two lengths; an empty text counts as one word."""
    return max(1.0, first) / max(1.0, second)


def _skewed(ratio: float, factor: float) -> bool:
    return not 1 / factor < ratio < factor


def _names(name: str, question: str) -> bool:
    """Whether a question contains the words of a trait's name, or words of the same stem."""
    asked = folded(question).split()
    stems = [w if len(w) <= _STEM else w[: max(_STEM, len(w) - 3)] for w in _spoken(name)]
    return bool(stems) and all(
        any(word == stem or (len(stem) >= _STEM and word.startswith(stem)) for word in asked)
        for stem in stems
    )


def _spoken(name: str) -> list[str]:
    return [word for word in folded(name.replace("_", " ")).split() if word not in _FUNCTION_WORDS]


def _candidates(texts: Sequence[set[str]], least: float) -> list[set[int]]:
    """For every text, the earlier texts that may share at least `least` of their words with it.

    Two such texts share one of the rarest words of each, so only those are looked up. This avoids
    comparing all pairs.
    """
    frequency = Counter(word for words in texts for word in words)
    places: dict[str, list[int]] = defaultdict(list)
    found: list[set[int]] = []
    for number, words in enumerate(texts):
        n_rare = len(words) - math.ceil(least * len(words) - 1e-9) + 1
        rare = sorted(words, key=lambda word: (frequency[word], word))[:n_rare]
        found.append({place for word in rare for place in places[word]})
        for word in rare:
            places[word].append(number)
    return found


def _nearly_repeats(
    words: set[str], other_words: set[str], content: set[str], other_content: set[str]
) -> bool:
    """Nearly the same words, or nearly the same words that carry meaning."""
    if _overlap(words, other_words) > _REPEATS:
        return True
    few = min(len(content), len(other_content)) < 2
    return not few and _overlap(content, other_content) >= _REPEATS_IN_CONTENT


def _words(text: str) -> set[str]:
    return set(folded(text).split())


def _content(text: str) -> set[str]:
    return {word[:_STEM] for word in _words(text) - _FUNCTION_WORDS if len(word) > 2}


def _overlap(first: set[str], second: set[str]) -> float:
    """Jaccard similarity: the share of all words that both texts have."""
    return len(first & second) / max(1, len(first | second))
