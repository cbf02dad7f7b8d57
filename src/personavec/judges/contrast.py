"""The contrast judge: no API, no second model.

For a response y to question q and the judge pairs k, the log-odds are the mean over k of
log p(y | pos_k, q) - log p(y | neg_k, q) under the judging model, on the first 64 response
tokens; the trait score is 100 * sigmoid(log-odds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from personavec.errors import UsageError
from personavec.judges.coherence import coherence
from personavec.model.chat import chat
from personavec.model.loading import LoadedModel
from personavec.model.scoring import Job, token_logprobs
from personavec.traits import JudgePair, TraitSpec

JUDGED_TOKENS = 64
NAME = "contrast"


@dataclass(frozen=True)
class Answer:
    """A response to judge: what was asked, under which system prompt, and what came.

    `pair` is the index of the eliciting pair it was generated under, if any; `thinking_ids` what
    the model thought before it, which coherence reads and the trait's score does not.
    """

    question: str
    response_ids: tuple[int, ...]
    system: str | None = None
    pair: int | None = None
    thinking_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Score:
    """What the judge says of one answer. All None when the response is empty."""

    log_odds: float | None
    log_odds_per_token: tuple[float, ...] | None
    trait_score: float | None
    coherence: float | None


def trait_score(log_odds: float) -> float:
    """100 * sigmoid(log-odds)."""
    return 50 * (1 + math.tanh(log_odds / 2))


def judge_pairs(spec: TraitSpec, pair: int | None) -> tuple[JudgePair, ...]:
    """The pairs that judge a rollout of eliciting pair `pair`.

    A spec without judge pairs is judged with its other eliciting pairs: under its own pair a
    model favours its own sample by construction, trait or no trait.
    """
    if spec.judge_instruction:
        return spec.judge_instruction
    others = tuple(
        JudgePair(pos=p.pos, neg=p.neg) for i, p in enumerate(spec.instruction) if i != pair
    )
    if not others:
        raise UsageError(
            f"trait '{spec.name}' has one instruction pair and no judge pairs: nothing is left to "
            "judge with; add pairs under 'judge_instruction'"
        )
    return others


def score_answers(
    loaded: LoadedModel,
    spec: TraitSpec,
    answers: Sequence[Answer],
    *,
    batch_tokens: int = 12288,
) -> list[Score]:
    """Score answers for the trait and for coherence, in one length-sorted queue of jobs.

    Coherence reads the response under the prompt it was generated from, system prompt included.
    """

    @cache
    def prompt(
        question: str, system: str | None, earlier: tuple[tuple[str, str], ...] = ()
    ) -> tuple[int, ...]:
        return tuple(loaded.chat.answer_prompt_ids(chat(question, system, earlier)))

    jobs: list[Job] = []
    pairs_of: list[tuple[JudgePair, ...]] = []
    for answer in answers:
        pairs = judge_pairs(spec, answer.pair) if answer.response_ids else ()
        pairs_of.append(pairs)
        if not answer.response_ids:
            continue
        ids = answer.response_ids[:JUDGED_TOKENS]
        own_prompt = prompt(answer.question, answer.system)
        if answer.thinking_ids:
            asked = loaded.chat.prompt_ids(chat(answer.question, answer.system))
            own_prompt = (*asked, *answer.thinking_ids)
        jobs.append((own_prompt, ids))
        for pair in pairs:
            shows = tuple((e.question, e.pos) for e in pair.examples)
            shows_not = tuple((e.question, e.neg) for e in pair.examples)
            jobs.append((prompt(answer.question, pair.pos, shows), ids))
            jobs.append((prompt(answer.question, pair.neg, shows_not), ids))
    found = iter(token_logprobs(loaded, jobs, batch_tokens=batch_tokens))

    scores: list[Score] = []
    for answer, pairs in zip(answers, pairs_of, strict=True):
        if not pairs:
            scores.append(Score(None, None, None, None))
            continue
        own = next(found)
        differences = torch.stack([next(found) - next(found) for _ in pairs]).mean(0)
        total = float(differences.sum())
        scores.append(
            Score(
                log_odds=total,
                log_odds_per_token=tuple(round(float(d), 4) for d in differences),
                trait_score=trait_score(total),
                coherence=coherence(own, answer.response_ids[:JUDGED_TOKENS]),
            )
        )
    return scores
