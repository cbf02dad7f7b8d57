"""The interface of judges: answers in, scores out.

The judges are in `contrast.py`, `local_rubric.py` and `api_rubric.py`. A new one is a class with
the methods of `Judge`, which `JudgeOptions` in `judges/config.py` builds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from personavec.data import Message, split_thought
from personavec.traits import TraitSpec

#: What determines a judge's scores, such as its kind and model, for manifests and reports.
Identity: TypeAlias = dict[str, Any]
State = Literal["scored", "refusal", "unscored", "empty", "unfinished_thought", "failed"]


@dataclass(frozen=True)
class Answer:
    """A response to judge, with its question."""

    question: str
    response: str
    system: str | None = None
    """The system prompt that it was generated under."""
    pair: int | None = None
    """The index of the instruction pair that elicited it."""
    response_ids: tuple[int, ...] | None = None
    """The token ids that the answering model wrote; the same model as a judge reads these, not
    the text."""
    thinking_ids: tuple[int, ...] = ()
    """The token ids of the thought before it."""
    logprobs: tuple[float, ...] = ()
    """Log-probabilities of the first of `response_ids`, in nats, as the answering model gave them
    unsteered; the same model as a judge does not read them again."""
    earlier: tuple[tuple[str, str], ...] = ()
    """Earlier turns, question and answer, such as the pair's examples."""
    ended: bool = False
    """It is known to have ended by itself, not at a length limit."""
    thought: str | None = None
    """The thought that was taken off its text; None if the text may begin with a thought. No
    judge reads thoughts."""


@dataclass(frozen=True)
class Score:
    """A judge's score of one answer. Missing values are None, and `state` gives the reason."""

    state: State
    log_odds: float | None = None
    """In nats; only the contrast judge gives it."""
    log_odds_per_token: tuple[float, ...] | None = None
    """One for each judged token, in nats."""
    trait_score: float | None = None
    """0 to 100."""
    coherence: float | None = None
    """0 to 100."""
    spread: float | None = None
    """Standard deviation of a trait score that was sampled."""
    mass: float | None = None
    """Probability that a rubric judge's reply is a number."""
    why: str | None = None
    """The reason of a failure."""
    had_thought: bool = False
    """The response's text began with a thought, which was left out."""


def last_answer(messages: Sequence[Message]) -> Answer:
    """The last scored response of a conversation, with the question before it."""
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


def score_without_thoughts(
    answers: Sequence[Answer], score: Callable[[Sequence[Answer]], list[Score]]
) -> list[Score]:
    """The scores of answers whose texts may begin with a thought.

    `score` gets the answers without their thoughts. An answer whose thought never ends has the
    state `unfinished_thought`.
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
    return replace(answer, response=rest, thought=thought, response_ids=None, logprobs=())


@runtime_checkable
class Judge(Protocol):
    """Scores answers for a trait; `name` goes into every record it scores."""

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> int:
        """Answers in one call of `score`; a killed run loses at most these scores."""
        ...

    def identity(self) -> Identity:
        """What determines its scores, for manifests and reports. Never holds a key."""
        ...

    def score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        """One score an answer, in their order."""
        ...
