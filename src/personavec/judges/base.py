"""What a judge takes and gives. Judges: `contrast.py`, `rubric.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

from personavec.data import Message, split_thought
from personavec.traits import TraitSpec

State = Literal["scored", "refusal", "unscored", "empty", "unfinished_thought", "failed"]


@dataclass(frozen=True)
class Answer:
    """A response to judge: what was asked, under which system prompt, and what came.

    `response_ids` are the ids that the answering model wrote, which a judge that is the same
    model reads in place of the text. `pair` is the index of the eliciting pair it was generated
    under, if any, and `earlier` its examples; `thinking_ids` what the model thought before it.
    """

    question: str
    response: str
    system: str | None = None
    pair: int | None = None
    response_ids: tuple[int, ...] | None = None
    thinking_ids: tuple[int, ...] = ()
    earlier: tuple[tuple[str, str], ...] = ()
    thought: str | None = None
    """What was thought before the response, and is no longer in its text; None where the text may
    begin with a thought, which no judge reads."""


@dataclass(frozen=True)
class Score:
    """What a judge says of one answer. A value that is missing is None, and `state` says why.

    `log_odds`, in nats, is the contrast judge's alone; `trait_score` and `coherence` go from 0
    to 100. `spread` is the standard deviation of the trait score where it was sampled, `mass` the
    probability that a rubric judge's reply is a number. `why` holds a failure's reason.
    """

    state: State
    log_odds: float | None = None
    log_odds_per_token: tuple[float, ...] | None = None
    trait_score: float | None = None
    coherence: float | None = None
    spread: float | None = None
    mass: float | None = None
    why: str | None = None
    had_thought: bool = False
    """The response's text began with a thought, which was left out."""


def last_answer(messages: Sequence[Message]) -> Answer:
    """The last response of a conversation that is scored, to the question before it."""
    place = max(
        place
        for place, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("scored", True)
    )
    asked = [message["content"] for message in messages[:place] if message["role"] == "user"]
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    return Answer(
        asked[-1] if asked else "",
        messages[place]["content"],
        system,
        thought=messages[place].get("reasoning_content", ""),
    )


def without_thoughts(
    answers: Sequence[Answer], score: Callable[[Sequence[Answer]], list[Score]]
) -> list[Score]:
    """What a judge's `score` says of answers whose texts may begin with a thought.

    It gets the answers without their thoughts; one whose thought never ends is a state.
    """
    read = [_without_thought(answer) for answer in answers]
    scores = iter(score([answer for answer in read if answer is not None]))
    found = []
    for answer, own in zip(answers, read, strict=True):
        said = Score("unfinished_thought") if own is None else next(scores)
        found.append(said if own is answer else replace(said, had_thought=True))
    return found


def _without_thought(answer: Answer) -> Answer | None:
    if answer.thought is not None:
        return answer
    thought, rest = split_thought(answer.response)
    if thought is None:
        return answer
    if rest is None:
        return None
    return replace(answer, response=rest, thought=thought, response_ids=None)


@runtime_checkable
class Judge(Protocol):
    """Scores answers for a trait; `name` goes into every record it scores."""

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> int:
        """Answers to hand over at a time: a killed run loses at most these scores."""
        ...

    def identity(self) -> dict[str, Any]:
        """What decides its scores, for manifests and reports; never a key."""
        ...

    def score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        """One score an answer, in their order."""
        ...
