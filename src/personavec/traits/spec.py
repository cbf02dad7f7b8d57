"""Trait specs: schema, loading (ours and the reference project's), linting, and templates.

Knows nothing about models. A spec is one JSON file; see `docs/traits.md`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from importlib import resources
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

from personavec.errors import UsageError
from personavec.runs import why_invalid

#: File names have at most 255 bytes, including the endings that are added to a trait's name.
_NAME_LENGTH, _NAME_BYTES = 64, 192


def _fit_for_a_file(name: str) -> str:
    """A name in letters of any script, without invisible characters."""
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


class ExampleAnswers(BaseModel):
    """One question with an answer that shows the trait and one that shows its opposite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = Field(min_length=1)
    pos: str = Field(min_length=1)
    neg: str = Field(min_length=1)


class InstructionPair(BaseModel):
    """A positive and a negative system prompt, and examples of what they ask for.

    The examples are inserted as earlier turns between the system prompt and the question. A small
    model follows them better than the prompt alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pos: str = Field(min_length=1)
    neg: str = Field(min_length=1)
    examples: tuple[ExampleAnswers, ...] = Field(default=(), max_length=MAX_EXAMPLES)

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
        if both := {folded(q) for q in self.extraction} & {folded(q) for q in self.evaluation}:
            raise ValueError(f"extraction and evaluation questions overlap: {sorted(both)[0]!r}")
        return self


class Check(BaseModel):
    """An answer whose verdict is known, to test judges with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    answer: str
    shows: bool
    half: Literal["tune", "report"] | None = None
    """Whether it is for choosing and fitting or for the report; None where questions take turns."""
    near_miss: bool = False
    """Its words or tone suggest the other verdict."""


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
        eliciting = {folded(p) for pair in self.instruction for p in (pair.pos, pair.neg)}
        judging = {folded(p) for pair in self.judge_instruction for p in (pair.pos, pair.neg)}
        if both := eliciting & judging:
            raise ValueError(f"a judge pair repeats an eliciting prompt: {sorted(both)[0]!r}")
        asked = {folded(q) for q in (*self.questions.extraction, *self.questions.evaluation)}
        shown = [
            {folded(e.question) for pair in pairs for e in pair.examples}
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

    def at_most(
        self,
        *,
        pairs: int | None = None,
        judge_pairs: int | None = None,
        extraction: int | None = None,
        evaluation: tuple[str, ...] | None = None,
    ) -> TraitSpec:
        """This spec with its first pairs, judge pairs and extraction questions; None keeps all.

        `evaluation` are the evaluation questions to keep.
        """
        questions = Questions.model_construct(
            extraction=self.questions.extraction[:extraction],
            evaluation=self.questions.evaluation if evaluation is None else evaluation,
        )
        return self.model_copy(
            update={
                "instruction": self.instruction[:pairs],
                "judge_instruction": self.judge_instruction[:judge_pairs],
                "questions": questions,
            }
        )

    @property
    def hash(self) -> str:
        """A short hash of what decides an extraction; checks and provenance do not."""
        text = self.model_dump_json(exclude={"checks", "monitoring", "provenance"})
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def judge_hash(self) -> str:
        """A short hash of the judge pairs."""
        text = "".join(pair.model_dump_json() for pair in self.judge_instruction)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def folded(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().lower()


def _repeated(texts: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for text in texts:
        if folded(text) in seen:
            return text
        seen.add(folded(text))
    return None


def check_trait_name(name: str) -> None:
    """Raise UsageError for a name that no file, folder or column could have."""
    try:
        _TRAIT_NAME.validate_python(name)
    except ValidationError as error:
        raise UsageError(f"trait name {name[:80]!r}: {why_invalid(error)}") from None


_TRAIT_NAME = TypeAdapter(TraitName)
