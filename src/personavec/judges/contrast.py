"""The contrast judge needs no API and no second model.

For a response y to question q and the judge pairs k, the log-odds are the mean over k of
log p(y | pos_k, q) - log p(y | neg_k, q) under the judging model, on the first 64 response
tokens. The trait score is 100 * sigmoid(log-odds). A pair's examples, question and answer, are
earlier turns between its system prompt and q; they show a small model what the prompt means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial

import torch
from torch import Tensor

from personavec.errors import UsageError
from personavec.judges.base import Answer, Identity, Score, score_without_thoughts
from personavec.judges.coherence_model import Norms, bundled_model
from personavec.judges.coherence_readings import Unread, alone_job, as_reading, model_norms
from personavec.judges.overflow import check_overflow, overflow
from personavec.model import (
    Beginnings,
    EarlierTurns,
    LoadedModel,
    ScoringJob,
    chat,
    token_logprobs,
)
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


def _sides(pair: InstructionPair) -> list[tuple[str, EarlierTurns]]:
    return [(pair.pos, pair.turns("pos")), (pair.neg, pair.turns("neg"))]


def _all_sides(spec: TraitSpec, answers: Sequence[Answer]) -> set[tuple[str, EarlierTurns]]:
    pairs = (judge_pairs(spec, own) for own in {answer.pair for answer in answers})
    return {side for some in pairs for pair in some for side in _sides(pair)}


@dataclass(frozen=True, eq=False)
class _Reading:
    """What is read of an answer: the judged tokens `ids` after the prompts of `jobs`.

    `own` holds the log-probabilities [token] under the response's own prompt, where generation gave
    them; elsewhere that prompt is the first to be read. Next is the reading alone, for coherence.
    """

    ids: tuple[int, ...]
    own: Tensor | None = None
    jobs: Sequence[ScoringJob] = ()
    fits: bool = True


@dataclass(frozen=True, eq=False)
class ContrastJudge:
    """The contrast judge on one model.

    `wrote_answers` means that this model, unsteered, wrote the responses; it then reads their
    token ids, and takes their log-probabilities from generation where it has them. Any other model
    reads the text with its own tokenizer. What its prompts share is encoded once and kept in
    `beginnings`, so the model must stay as it is.
    """

    loaded: LoadedModel
    wrote_answers: bool = False
    batch_tokens: int = 12288
    name: str = NAME
    group: int = 80
    beginnings: Beginnings = field(default_factory=Beginnings)

    @cached_property
    def norms(self) -> Norms:
        """Of the judging model's own neutral responses; made when first needed."""
        return model_norms(self.loaded)

    def identity(self) -> Identity:
        identity = self.loaded.identity.as_dict()
        return {"judge": self.name, "model": identity, "coherence": bundled_model().version}

    def spared_tokens(self, writer: LoadedModel) -> int:
        """Of how many tokens this judge can use the log-probabilities that `writer` gives."""
        return JUDGED_TOKENS if self.wrote_answers and writer is self.loaded else 0

    def score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        """Score answers for the trait and for coherence.

        Coherence is measured under the prompt that the response was generated from, including
        system prompt and thinking, and under one that says nothing.

        An answer that exceeds the model's context together with a judge's prompt, or on which the
        judging model's activations overflow, is `unscored`.
        Thoughts at the start of a text are not judged. Raises ActivationError if the activations
        overflow on all of several answers.
        """
        return score_without_thoughts(answers, partial(self._score, spec))

    def _score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        prompt_ids = cache(self._prompt_ids)
        readings = [self._reading(spec, answer, prompt_ids) for answer in answers]
        read = [a for a, reading in zip(answers, readings, strict=True) if reading.jobs]
        found = iter(
            token_logprobs(
                self.loaded,
                [job for reading in readings if reading.fits for job in reading.jobs],
                batch_tokens=self.batch_tokens,
                beginnings=self.beginnings,
                # The same prompts with another question, as later calls have them.
                others=[prompt_ids(".", *side) for side in _all_sides(spec, read)],
            )
        )
        scores: list[Score] = []
        for reading in readings:
            if not reading.ids:
                scores.append(Score("empty"))
            elif not reading.fits:
                scores.append(Score("unscored", why="longer than the judging model's context"))
            else:
                given = [] if reading.own is None else [reading.own]
                logprobs = [*given, *(next(found) for _ in reading.jobs)]
                scores.append(self._finite_score(reading.ids, logprobs))
        check_overflow(self.loaded, scores)
        return scores

    def _finite_score(self, ids: tuple[int, ...], logprobs: Sequence[Tensor]) -> Score:
        if not all(bool(torch.isfinite(each).all()) for each in logprobs):
            return Score("unscored", why=overflow(self.loaded))
        return _score(ids, logprobs, self.norms)

    def _reading(self, spec: TraitSpec, answer: Answer, prompt_ids: _PromptIds) -> _Reading:
        """The response under its own prompt, then under both sides of every judge pair."""
        ids = self._all_ids(answer)[:JUDGED_TOKENS]
        if not ids:
            return _Reading(())
        own = prompt_ids(answer.question, answer.system, answer.earlier)
        given = None
        if self.wrote_answers and (answer.thinking_ids or answer.logprobs):
            messages = chat(answer.question, answer.system, answer.earlier)
            generated_from = (*self.loaded.chat.prompt_ids(messages), *answer.thinking_ids)
            own = generated_from if answer.thinking_ids else own
            if own == generated_from and len(answer.logprobs) >= len(ids):
                given = torch.tensor(answer.logprobs[: len(ids)])
        whole = len(self._all_ids(answer)) == len(ids)
        alone = alone_job(self.loaded, Unread(own, ids, answer.ended and whole))
        prompts: list[tuple[int, ...]] = []
        for pair in judge_pairs(spec, answer.pair):
            prompts += [prompt_ids(answer.question, *side) for side in _sides(pair)]
        first = [(own, ids)] if given is None else []
        jobs = [*first, alone, *((prompt, ids) for prompt in prompts)]
        fits = all(sum(map(len, job)) <= self.loaded.context for job in jobs)
        return _Reading(ids, given, jobs, fits)

    def _all_ids(self, answer: Answer) -> tuple[int, ...]:
        if self.wrote_answers and answer.response_ids is not None:
            return answer.response_ids
        return tuple(self.loaded.chat.response_ids(answer.response))

    def _prompt_ids(
        self, question: str, system: str | None, earlier: EarlierTurns
    ) -> tuple[int, ...]:
        return tuple(self.loaded.chat.answer_prompt_ids(chat(question, system, earlier)))


def _score(ids: tuple[int, ...], logprobs: Sequence[Tensor], norms: Norms) -> Score:
    """From log-probabilities under the own prompt, alone, then both sides of every pair."""
    own, alone, *judged = logprobs
    differences = (torch.stack(judged[0::2]) - torch.stack(judged[1::2])).mean(0)
    total = float(differences.sum())
    return Score(
        "scored",
        log_odds=total,
        log_odds_per_token=tuple(round(float(d), 4) for d in differences),
        trait_score=trait_score(total),
        coherence=bundled_model().coherence(as_reading(ids, own, alone), norms),
    )
