"""The rubric judge on a model behind an endpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from personavec.data import FORMATS
from personavec.judges.base import Answer, Identity, Judge, Score
from personavec.judges.endpoint import Choice, CostEstimate, Endpoint, Reply, Request, ask, estimate
from personavec.judges.numbers import (
    Grade,
    NumberTree,
    from_probabilities,
    from_texts,
    refusal_mass,
    token_list,
)
from personavec.judges.rubric import rubric_prompts, score_by_rubrics, trait_rubric
from personavec.model import chat
from personavec.traits import TraitSpec

#: One token, with the longest list of alternatives that endpoints give.
_ONE_TOKEN = {"max_tokens": 1, "temperature": 1, "logprobs": True, "top_logprobs": 20, "seed": 0}
#: Three digits and the token after them.
_DIGIT_TOKENS = 4
#: Replies sampled in a round to follow digits, and the most rounds.
_ROUND, _ROUNDS = 4, 4
#: Tokens of a sampled reply, and of one that thinks first.
_SAMPLE_TOKENS = (16, 4096)
#: Restricts a sampled reply to numbers if the endpoint has structured outputs.
_INTEGER = {
    "type": "json_schema",
    "json_schema": {
        "name": "score",
        "schema": {"type": "integer", "minimum": 0, "maximum": 100},
    },
}


class _NotTaken(Exception):
    """The endpoint rejects a kind of request, or leaves out the part that it was sent for."""


@dataclass(frozen=True, eq=False)
class ApiRubricJudge:
    """The rubric judge on a model behind an endpoint.

    It asks for one token, with the 20 likeliest. If their list shows that numbers are written in
    several tokens, sampled replies show how the digits continue. If there are no lists, `samples`
    replies are sampled, and their spread is reported.
    """

    endpoint: Endpoint
    samples: int = 8
    name: str = "api"
    group: int = 128

    def identity(self) -> Identity:
        return {"judge": self.name, **self.endpoint.identity(), "samples": self.samples}

    def notes(self) -> list[str]:
        """Notes on the scores given so far, for results."""
        return self.endpoint.notes()

    def estimate(self, spec: TraitSpec, answers: Sequence[Answer]) -> CostEstimate:
        """The calls for one-token replies; an endpoint that splits numbers takes more."""
        prompts = rubric_prompts(trait_rubric(spec), [a for a in answers if a.response])
        return estimate(self.endpoint, [_request(prompt, _ONE_TOKEN) for prompt in prompts])

    def score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        """Expected trait score and coherence, both 0 to 100.

        A call that fails gives the state `failed`, with the reason. Raises EndpointError for a
        cause that all calls share.
        """
        return score_by_rubrics(spec, answers, self._grade)

    def _grade(self, prompts: Sequence[str]) -> list[Grade]:
        """Grades from token lists if the endpoint gives them, else from samples."""
        replies = self._first_tokens(prompts)
        unlisted = [i for i, reply in enumerate(replies) if reply is None or _has_no_lists(reply)]
        grades: dict[int, Grade] = {}
        choices: dict[int, Choice] = {}
        for i, reply in enumerate(replies):
            if reply is None or i in unlisted:
                continue
            if reply.completion is None or reply.refusal:
                grades[i] = _without_number(reply)
            else:
                choices[i] = reply.choice
        grades |= self._from_lists(prompts, choices)
        grades |= self._from_samples(prompts, unlisted)
        return [grades[i] for i in range(len(prompts))]

    def _first_tokens(self, prompts: Sequence[str]) -> Sequence[Reply | None]:
        """Replies of one token; None for all if the endpoint gives no token lists."""
        requests = [_request(prompt, _ONE_TOKEN) for prompt in prompts]
        inputs = _inputs(range(len(prompts)), prompts)
        return self._ask(requests, inputs, _has_no_lists) or [None] * len(prompts)

    def _from_lists(
        self, prompts: Sequence[str], choices: Mapping[int, Choice]
    ) -> dict[int, Grade]:
        """Expected numbers, from the first token's list and the lists after its digits."""
        trees = {i: NumberTree() for i in choices}
        for i, choice in choices.items():
            trees[i].add(choice, room=1)
        failed = self._follow_digits(prompts, trees)
        grades: dict[int, Grade] = {}
        for i, tree in trees.items():
            numbers, open_mass = tree.numbers()
            refusal = refusal_mass(token_list(choices[i]) or {})
            grade = from_probabilities(numbers, refusal, open_mass=open_mass)
            grades[i] = failed.get(i, grade) if grade.state == "unscored" else grade
        return grades

    def _follow_digits(
        self, prompts: Sequence[str], trees: Mapping[int, NumberTree]
    ) -> dict[int, Grade]:
        """Sample replies with their token lists until it is known how the digits continue.

        Returns failures by prompt. Sampling only decides which lists are seen; the probabilities
        come from the lists.
        """
        options = {**_ONE_TOKEN, "max_tokens": _DIGIT_TOKENS, "response_format": _INTEGER}
        failed: dict[int, Grade] = {}
        for number in range(_ROUNDS):
            followed = [i for i, tree in trees.items() if tree.is_open()]
            if not followed:
                break
            seeds = range(number * _ROUND, (number + 1) * _ROUND)
            asked = [(i, seed) for i in followed for seed in seeds]
            for (i, _), reply in zip(asked, self._digits(prompts, asked, options), strict=True):
                if reply.completion is None:
                    failed[i] = _without_number(reply)
                else:
                    trees[i].add(reply.choice, room=_DIGIT_TOKENS)
        return failed

    def _digits(
        self,
        prompts: Sequence[str],
        asked: Sequence[tuple[int, int]],
        options: MutableMapping[str, Any],
    ) -> list[Reply]:
        """Replies of a few tokens by prompt and seed.

        Removes the response format from the options if the endpoint rejects it.
        """
        inputs = _inputs([i for i, _ in asked], prompts)
        requests = [_request(prompts[i], options, seed) for i, seed in asked]
        replies = self._ask(requests, inputs, _is_rejected)
        if replies is not None:
            return replies
        options.pop("response_format")
        requests = [_request(prompts[i], options, seed) for i, seed in asked]
        return ask(self.endpoint, requests, inputs=inputs)

    def _from_samples(self, prompts: Sequence[str], chosen: Sequence[int]) -> dict[int, Grade]:
        """The mean of sampled replies; a model that is cut off while thinking gets more tokens."""
        keys = [(i, seed) for i in chosen for seed in range(self.samples)]
        replies: dict[tuple[int, int], Reply] = {}
        for room in _SAMPLE_TOKENS:
            options = {"max_tokens": room, "temperature": 1}
            asked = [key for key in keys if key not in replies or _is_cut_off(replies[key])]
            requests = [_request(prompts[i], options, seed) for i, seed in asked]
            found = ask(self.endpoint, requests, inputs=_inputs([i for i, _ in asked], prompts))
            replies |= dict(zip(asked, found, strict=True))
        return {i: _mean([replies[i, seed] for seed in range(self.samples)]) for i in chosen}

    def _ask(
        self,
        requests: Sequence[Request],
        inputs: Sequence[int],
        is_useless: Callable[[Reply], bool],
    ) -> list[Reply] | None:
        """Replies; None as soon as the first is useless, since the others would be too."""
        useful = False

        def look(_: int, reply: Reply) -> None:
            nonlocal useful
            useful = useful or not is_useless(reply)
            if not useful:
                raise _NotTaken

        try:
            return ask(self.endpoint, requests, on_reply=look, inputs=inputs)
        except _NotTaken:
            return None


def judge_notes(judge: Judge) -> list[str]:
    """Notes on a judge's scores, for results."""
    return judge.notes() if isinstance(judge, ApiRubricJudge) else []


def _request(prompt: str, options: Mapping[str, Any], seed: int = 0) -> Request:
    return {"messages": chat(prompt), **options, "seed": seed}


def _inputs(chosen: Sequence[int], prompts: Sequence[str]) -> list[int]:
    """The answer that each chosen prompt is about: `prompts` holds all answers for each rubric."""
    return [i % (len(prompts) // 2) for i in chosen]


def _is_rejected(reply: Reply) -> bool:
    """Whether the endpoint rejects the request itself."""
    return reply.status in (400, 403, 422) and not _is_too_long(reply) and not reply.refusal


def _has_no_lists(reply: Reply) -> bool:
    """Whether the reply lacks the alternatives beside its token, or the endpoint rejects them.

    The lists of a model that thinks first are of its thought, not of its verdict.
    """
    if reply.completion is None:
        return _is_rejected(reply) and "logprobs" in (reply.why or "")
    listed = token_list(reply.choice)
    return (listed is None or reply.thinks or _begins_thought(listed)) and not reply.refusal


def _begins_thought(listed: Mapping[str, float]) -> bool:
    """Whether the likeliest token is a mark that opens a thought, or the first part of one."""
    likeliest = max(listed, key=lambda token: listed[token]).strip()
    opens = any(form.opens.startswith(likeliest) for form in FORMATS) and likeliest != ""
    return opens and not any(token.strip().isdigit() for token in listed)


def _is_too_long(reply: Reply) -> bool:
    return reply.status == 400 and bool(
        re.search(r"context|too long|too many tokens|maximum.*(tokens|length)", reply.why or "")
    )


def _is_cut_off(reply: Reply) -> bool:
    """Whether it used all its tokens without any text: the model was thinking."""
    return (
        reply.completion is not None
        and not reply.text.strip()
        and reply.choice.get("finish_reason") == "length"
    )


def _without_number(reply: Reply) -> Grade:
    if reply.refusal:
        return Grade("unscored", why=f"the endpoint's filter stopped the judge ({reply.refusal})")
    if _is_too_long(reply):
        return Grade("unscored", why=f"longer than the endpoint's context ({reply.why})")
    return Grade("failed", why=reply.why)


def _mean(replies: Sequence[Reply]) -> Grade:
    """The mean of samples. One failed sample fails the grade, and the next run asks it again."""
    for reply in replies:
        if reply.completion is None:
            return _without_number(reply)
    return from_texts([reply.text for reply in replies])
