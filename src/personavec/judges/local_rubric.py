"""The rubric judge on a transformers model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from personavec.judges.base import Answer, Identity, Score
from personavec.judges.numbers import REFUSAL, Grade, from_probabilities
from personavec.judges.overflow import check_overflow, overflow
from personavec.judges.rubric import score_by_rubrics
from personavec.model import LoadedModel, chat, sequence_logprobs
from personavec.traits import TraitSpec

_NUMBERS = tuple(range(101))
#: The local judge's probabilities are exact, so a small mass on numbers is still sound.
_LEAST_LOCAL_MASS = 0.01


@dataclass(frozen=True, eq=False)
class LocalRubricJudge:
    """The rubric judge on a transformers model: the exact expected number.

    Each of the 101 numbers is a token sequence that ends with the end of the turn. This tells 8
    and 85 apart with every tokenizer.
    """

    loaded: LoadedModel
    batch_tokens: int = 12288
    name: str = "rubric"
    group: int = 40

    def identity(self) -> Identity:
        return {"judge": self.name, "model": self.loaded.identity.as_dict()}

    def score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        """Expected trait score and coherence, both 0 to 100.

        `mass` is the probability that the judge's reply is one of the 101 numbers and nothing
        else. If it stays small, the model has not understood the task; `judges check` shows it.
        """
        scores = score_by_rubrics(spec, answers, self._grade)
        check_overflow(self.loaded, scores)
        return scores

    def _grade(self, prompts: Sequence[str]) -> list[Grade]:
        chat_format = self.loaded.chat
        stops = sorted(self.loaded.stop_ids)
        sequences = [
            (*chat_format.response_ids(str(n)), stop) for n in _NUMBERS for stop in stops
        ] + [tuple(chat_format.response_ids(REFUSAL))]
        longest = max(map(len, sequences))
        ids = [tuple(chat_format.answer_prompt_ids(chat(prompt))) for prompt in prompts]
        fits = [i for i, p in enumerate(ids) if len(p) + longest <= self.loaded.context]
        found = sequence_logprobs(
            self.loaded, [ids[i] for i in fits], sequences, batch_tokens=self.batch_tokens
        ).exp()
        numbers = found[:, :-1].reshape(len(fits), len(_NUMBERS), len(stops)).sum(-1)
        too_long = Grade("unscored", why="longer than the judging model's context")
        grades = [too_long] * len(prompts)
        for i, row, refusal in zip(fits, numbers.tolist(), found[:, -1].tolist(), strict=True):
            grades[i] = self._expected(row, refusal)
        return grades

    def _expected(self, probabilities: Sequence[float], refusal: float) -> Grade:
        """The grade from the probabilities of 0 to 100 and of a refusal."""
        if not math.isfinite(sum(probabilities) + refusal):
            return Grade("unscored", why=overflow(self.loaded))
        numbers = dict(zip(_NUMBERS, probabilities, strict=True))
        return from_probabilities(numbers, refusal, least=_LEAST_LOCAL_MASS)
