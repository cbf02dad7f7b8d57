"""Trait specs: schema, loading (ours and the reference project's), linting, and templates.

Knows nothing about models. A spec is one JSON file; see `docs/traits.md`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from personavec.errors import SpecError, UsageError
from personavec.plain import parse_json
from personavec.runs import why_invalid
from personavec.wording import plural

#: A file system takes names of 255 bytes, and what a trait names has an ending too.
_NAME_LENGTH, _NAME_BYTES = 64, 192


def _fit_for_a_file(name: str) -> str:
    """A name in letters of any script, with nothing in it that is not seen."""
    kinds = [unicodedata.category(c)[0] for c in name]
    known = all(kind in "LMN" or c in " _.-" for kind, c in zip(kinds, name, strict=True))
    sized = len(name) <= _NAME_LENGTH and len(name.encode(errors="replace")) <= _NAME_BYTES
    if not name or not known or not sized or kinds[0] not in "LN":
        raise ValueError(
            f"use at most {_NAME_LENGTH} letters, digits, spaces and any of _.-, and begin with a "
            "letter or digit"
        )
    return name


#: Traits name files, folders and columns.
TraitName = Annotated[str, AfterValidator(_fit_for_a_file)]
Polarity = Literal["pos", "neg"]
POLARITIES: tuple[Polarity, ...] = ("pos", "neg")
Origin = Literal["bundled", "file", "template"]
BUNDLED = resources.files("personavec") / "bundled"
#: The largest spec: pairs of either kind, examples in a pair, questions in a half. The method uses
#: 5 pairs and 20 questions.
MAX_PAIRS, MAX_EXAMPLES, MAX_QUESTIONS = 500, 50, 2000


class Example(BaseModel):
    """One question with an answer that shows the trait and one that shows its opposite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = Field(min_length=1)
    pos: str = Field(min_length=1)
    neg: str = Field(min_length=1)


class InstructionPair(BaseModel):
    """A positive and a negative system prompt, and examples of what they ask for.

    The examples stand as earlier turns between the system prompt and the question. A small model
    follows them where it does not follow the prompt alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pos: str = Field(min_length=1)
    neg: str = Field(min_length=1)
    examples: tuple[Example, ...] = Field(default=(), max_length=MAX_EXAMPLES)

    def turns(self, polarity: Polarity) -> tuple[tuple[str, str], ...]:
        """The examples as (question, answer) turns of one polarity."""
        return tuple((e.question, getattr(e, polarity)) for e in self.examples)


class Questions(BaseModel):
    """Extraction questions make the vector; evaluation questions test it. Never mixed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extraction: tuple[str, ...] = Field(min_length=2, max_length=MAX_QUESTIONS)
    evaluation: tuple[str, ...] = Field(min_length=2, max_length=MAX_QUESTIONS)

    @model_validator(mode="after")
    def _disjoint(self) -> Questions:
        for name, part in (("extraction", self.extraction), ("evaluation", self.evaluation)):
            if twice := _repeated(part):
                raise ValueError(f"{name} questions repeat: {twice!r}")
        if both := {_plain(q) for q in self.extraction} & {_plain(q) for q in self.evaluation}:
            raise ValueError(f"extraction and evaluation questions overlap: {sorted(both)[0]!r}")
        return self


class Check(BaseModel):
    """An answer whose verdict is known, to test judges with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    answer: str
    shows: bool


class TraitSpec(BaseModel):
    """A trait with all that is needed to extract and test its persona vector."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: TraitName
    description: str = Field(min_length=1)
    instruction: tuple[InstructionPair, ...] = Field(min_length=1, max_length=MAX_PAIRS)
    judge_instruction: tuple[InstructionPair, ...] = Field(default=(), max_length=MAX_PAIRS)
    questions: Questions
    rubric: str = ""
    monitoring: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)

    @field_validator("monitoring")
    @classmethod
    def _eight(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        if prompts and len(prompts) != 8:
            raise ValueError(f"monitoring takes eight graded prompts, not {len(prompts)}")
        return prompts

    @model_validator(mode="after")
    def _judge_apart(self) -> TraitSpec:
        eliciting = {_plain(p) for pair in self.instruction for p in (pair.pos, pair.neg)}
        judging = {_plain(p) for pair in self.judge_instruction for p in (pair.pos, pair.neg)}
        if both := eliciting & judging:
            raise ValueError(f"a judge pair repeats an eliciting prompt: {sorted(both)[0]!r}")
        asked = {_plain(q) for q in (*self.questions.extraction, *self.questions.evaluation)}
        shown = [
            {_plain(e.question) for pair in pairs for e in pair.examples}
            for pairs in (self.instruction, self.judge_instruction)
        ]
        if both := asked & (shown[0] | shown[1]):
            raise ValueError(f"an example repeats a question: {sorted(both)[0]!r}")
        if both := shown[0] & shown[1]:
            raise ValueError(f"a judge example repeats an eliciting one: {sorted(both)[0]!r}")
        return self

    def last_questions(self, n: int | None) -> tuple[str, ...]:
        """The last `n` evaluation questions, or all. Raises UsageError where there are fewer."""
        questions = self.questions.evaluation
        if n is not None and n > len(questions):
            raise UsageError(
                f"{n} questions: trait '{self.name}' has {len(questions)} evaluation questions"
            )
        return questions[len(questions) - n :] if n is not None else questions

    @property
    def hash(self) -> str:
        """A short hash of what decides an extraction; checks and provenance do not."""
        text = self.model_dump_json(exclude={"checks", "monitoring", "provenance"})
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().lower()


def _repeated(texts: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for text in texts:
        if _plain(text) in seen:
            return text
        seen.add(_plain(text))
    return None


def bundled_traits() -> list[str]:
    """Names of the traits that ship with the package."""
    return sorted(p.name[:-5] for p in (BUNDLED / "traits").iterdir() if p.name.endswith(".json"))


@cache
def question_bank() -> tuple[str, ...]:
    """Varied everyday questions, from which template specs are built."""
    return tuple(json.loads((BUNDLED / "questions.json").read_text("utf-8"))["questions"])


@cache
def neutral_prompts() -> tuple[str, ...]:
    """Ordinary requests; the neutral baseline against which projections are standardised."""
    return tuple(json.loads((BUNDLED / "neutral_prompts.json").read_text("utf-8"))["prompts"])


def load_trait(source: str, description: str | None = None) -> tuple[TraitSpec, Origin]:
    """A spec from a bundled name, a JSON file, or a name with a description.

    Raises SpecError when it is none of these or when the spec is unsound.
    """
    if description is not None:
        return template_spec(source, description), "template"
    if source in bundled_traits():
        text = (BUNDLED / "traits" / f"{source}.json").read_text("utf-8")
        spec = _parse(text, where=source, name=source)
        return spec.model_copy(update={"checks": _bundled_checks(source)}), "bundled"
    path = Path(source)
    if path.suffix == ".json" or _is_file(path):
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, ValueError) as error:
            raise SpecError(f"trait spec {source} cannot be read: {error}") from error
        return _parse(text, where=source, name=path.stem), "file"
    raise SpecError(
        f"unknown trait '{source}': use one of {', '.join(bundled_traits())}, or a spec file "
        "(personavec extract also builds one from a name and --description TEXT)"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text that is too long for a name
        return False


def check_trait_name(name: str) -> None:
    """Raise UsageError for a name that no file, folder or column could have."""
    try:
        _TRAIT_NAME.validate_python(name)
    except ValidationError as error:
        raise UsageError(f"trait name {name[:80]!r}: {why_invalid(error)}") from None


_TRAIT_NAME = TypeAdapter(TraitName)


@cache
def _bundled_checks(name: str) -> tuple[Check, ...]:
    """Kept beside the specs: they are longer, and were written without a look at them."""
    path = BUNDLED / "checks" / f"{name}.json"
    return tuple(Check.model_validate(check) for check in json.loads(path.read_text("utf-8")))


def _parse(text: str, *, where: str, name: str) -> TraitSpec:
    try:
        data = parse_json(text)
    except ValueError as error:
        raise SpecError(f"trait spec {where} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise SpecError(f"trait spec {where} must be a JSON object")
    if "eval_prompt" in data or isinstance(data.get("questions"), list):
        data = _from_reference(data, name, where)
    try:
        return TraitSpec.model_validate(data)
    except ValidationError as error:
        raise SpecError(f"trait spec {where}: {why_invalid(error)}") from error


def _from_reference(data: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """Our schema from the reference project's `instruction`, `questions`, `eval_prompt`.

    Its questions are one list; the first half extracts, the second evaluates.
    """
    questions = data.get("questions")
    if not isinstance(questions, list) or len(questions) < 4:
        raise SpecError(f"trait spec {where}: 'questions' must list at least 4 questions")
    half = len(questions) // 2
    return {
        "name": name,
        "description": data.get("description") or name.replace("_", " "),
        "instruction": data.get("instruction", []),
        "questions": {"extraction": questions[:half], "evaluation": questions[half:]},
        "rubric": data.get("eval_prompt", ""),
        "provenance": {"format": "reference project", "file": Path(where).name},
    }


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

    Questions come from the bundled bank; those that name the trait are passed over.
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


Part = Literal["instruction", "judge_instruction", "extraction", "evaluation"]

#: Two texts that share more of their words than this nearly repeat each other; a pair's two sides
#: share their frame and may share more.
_REPEATS, _HARDLY_DIFFERS = 0.7, 0.8
#: The same for words that carry meaning, by their first letters, from this share on.
_REPEATS_IN_CONTENT, _STEM = 0.5, 5
#: What may be longer than its counterpart by this factor before it is worth a warning.
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
    """Something that may mislead, as a line for a person, and what would have to be rewritten.

    `index` counts from 0 within `part`; both are None where no one entry is to blame.
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
    """Pairs whose sides say the same, and pairs that say what an earlier one says."""
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
    """Lengths of nothing count as one word, so that nothing is as long as nothing."""
    return max(1.0, first) / max(1.0, second)


def _skewed(ratio: float, factor: float) -> bool:
    return not 1 / factor < ratio < factor


def _names(name: str, question: str) -> bool:
    """Whether a question holds the words of a trait's name, or words of the same stem."""
    asked = _plain(question).split()
    stems = [w if len(w) <= _STEM else w[: max(_STEM, len(w) - 3)] for w in _spoken(name)]
    return bool(stems) and all(
        any(word == stem or (len(stem) >= _STEM and word.startswith(stem)) for word in asked)
        for stem in stems
    )


def _spoken(name: str) -> list[str]:
    return [word for word in _plain(name.replace("_", " ")).split() if word not in _FUNCTION_WORDS]


def _candidates(texts: Sequence[set[str]], least: float) -> list[set[int]]:
    """For every text, the earlier ones that may share as much as `least` of their words with it.

    Texts that do have one word in common among the rarest of each: more than the rest of either
    have to be shared. So few of all pairs are compared.
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
    return set(_plain(text).split())


def _content(text: str) -> set[str]:
    return {word[:_STEM] for word in _words(text) - _FUNCTION_WORDS if len(word) > 2}


def _overlap(first: set[str], second: set[str]) -> float:
    """Jaccard's: the share of all words that both have."""
    return len(first & second) / max(1, len(first | second))
