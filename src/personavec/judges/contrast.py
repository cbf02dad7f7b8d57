"""The contrast judge needs no API and no second model.

For a response y to question q and the judge pairs k, the log-odds are the mean over k of
log p(y | pos_k, q) - log p(y | neg_k, q) under the judging model, on the first 64 response
tokens. The trait score is 100 * sigmoid(log-odds). A pair's examples, question and answer, are
earlier turns between its system prompt and q; they show a small model what the prompt means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from personavec.errors import UsageError
from personavec.judges.base import Answer, Identity, Score, score_without_thoughts
from personavec.judges.coherence import coherence
from personavec.judges.overflow import check_overflow, overflow
from personavec.model import EarlierTurns, LoadedModel, ScoringJob, chat, token_logprobs
from personavec.traits import InstructionPair, TraitSpec

JUDGED_TOKENS = 64
NAME = "contrast"

_PromptIds = Callable[[str, str | None, EarlierTurns], tuple[int, ...]]


def trait_score(log_odds: float) -> float:
    """100 * sigmoid(log-odds)."""
    return 50 * (1 + math.tanh(log_odds / 2))


def judge_pairs(spec: TraitSpec, pair: int | None) -> tuple[InstructionPair, ...]:
    """The pairs that judge a rollout of eliciting pair `pair`.

    They are the spec's judge pairs, else its other eliciting pairs. A rollout's own pair is left
    out: it makes the sample likelier by construction, whether it shows the trait or not.
    """
    if spec.judge_instruction:
        return spec.judge_instruction
    others = tuple(p for i, p in enumerate(spec.instruction) if i != pair)
    if not others:
        raise UsageError(
            f"trait '{spec.name}' has one instruction pair and no judge pairs: nothing is left to "
            "judge with; add pairs under 'judge_instruction'"
        )
    return others


@dataclass(frozen=True, eq=False)
class ContrastJudge:
    """The contrast judge on one model.

    `wrote_answers` means that this model, unsteered, wrote the responses; it then reads their
    token ids. Any other model reads the text with its own tokenizer.
    """

    loaded: LoadedModel
    wrote_answers: bool = False
    batch_tokens: int = 12288
    name: str = NAME
    group: int = 80

    def identity(self) -> Identity:
        return {"judge": self.name, "model": self.loaded.identity.as_dict()}

    def score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        """Score answers for the trait and for coherence.

        Coherence is measured under the prompt that the response was generated from, including
        system prompt and thinking. An answer that exceeds the model's context together with a
        judge's prompt, or on which the judging model's activations overflow, is `unscored`.
        Thoughts at the start of a text are not judged. Raises ActivationError if the activations
        overflow on all of several answers.
        """
        return score_without_thoughts(answers, partial(self._score, spec))

    def _score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        ids = [self._ids(answer) for answer in answers]
        prompt_ids = cache(self._prompt_ids)
        jobs_of = [
            self._jobs(spec, answer, read, prompt_ids) if read else []
            for answer, read in zip(answers, ids, strict=True)
        ]
        fits = [
            all(len(prompt) + len(read) <= self.loaded.context for prompt, read in jobs)
            for jobs in jobs_of
        ]
        jobs = [job for jobs, fit in zip(jobs_of, fits, strict=True) if fit for job in jobs]
        found = iter(token_logprobs(self.loaded, jobs, batch_tokens=self.batch_tokens))
        scores: list[Score] = []
        for read, jobs, fit in zip(ids, jobs_of, fits, strict=True):
            if not read:
                scores.append(Score("empty"))
            elif not fit:
                scores.append(Score("unscored", why="longer than the judging model's context"))
            else:
                scores.append(self._finite_score(read, [next(found) for _ in jobs]))
        check_overflow(self.loaded, scores)
        return scores

    def _finite_score(self, ids: tuple[int, ...], logprobs: Sequence[Tensor]) -> Score:
        if not all(bool(torch.isfinite(each).all()) for each in logprobs):
            return Score("unscored", why=overflow(self.loaded))
        return _score(ids, logprobs)

    def _ids(self, answer: Answer) -> tuple[int, ...]:
        if self.wrote_answers and answer.response_ids is not None:
            return answer.response_ids[:JUDGED_TOKENS]
        return tuple(self.loaded.chat.response_ids(answer.response))[:JUDGED_TOKENS]

    def _jobs(
        self, spec: TraitSpec, answer: Answer, ids: tuple[int, ...], prompt_ids: _PromptIds
    ) -> list[ScoringJob]:
        """The response under its own prompt, then under both sides of every judge pair."""
        own = prompt_ids(answer.question, answer.system, answer.earlier)
        if answer.thinking_ids and self.wrote_answers:
            messages = chat(answer.question, answer.system, answer.earlier)
            asked = self.loaded.chat.prompt_ids(messages)
            own = (*asked, *answer.thinking_ids)
        jobs = [(own, ids)]
        for pair in judge_pairs(spec, answer.pair):
            jobs.append((prompt_ids(answer.question, pair.pos, pair.turns("pos")), ids))
            jobs.append((prompt_ids(answer.question, pair.neg, pair.turns("neg")), ids))
        return jobs

    def _prompt_ids(
        self, question: str, system: str | None, earlier: EarlierTurns
    ) -> tuple[int, ...]:
        return tuple(self.loaded.chat.answer_prompt_ids(chat(question, system, earlier)))


def _score(ids: tuple[int, ...], logprobs: Sequence[Tensor]) -> Score:
    """From log-probabilities under the own prompt, then positive and negative of every pair."""
    own, *judged = logprobs
    differences = (torch.stack(judged[0::2]) - torch.stack(judged[1::2])).mean(0)
    total = float(differences.sum())
    return Score(
        "scored",
        log_odds=total,
        log_odds_per_token=tuple(round(float(d), 4) for d in differences),
        trait_score=trait_score(total),
        coherence=coherence(own, ids),
    )
