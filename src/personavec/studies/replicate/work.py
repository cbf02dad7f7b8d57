"""How much a stage has to do, in tokens, before it is run.

Answers count at their longest, so a plan is an upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from personavec.traits import TraitSpec

#: A question with what the template adds, in tokens; and one of the judge's prompts, of which all
#: but the question is encoded once.
QUESTION, JUDGE_PROMPT = 30, 20
#: A system prompt with its examples, in tokens, encoded once for many questions.
INSTRUCTION = 20
#: The judge reads no more of an answer.
JUDGED = 64
#: A training token is read forward, and once more of each layer's gradients backward.
TRAINING = 3
#: An item of the packaged capability task with its choices, and a neutral text, in tokens.
ITEM, TEXT = 150, 60


@dataclass(frozen=True)
class Work:
    """Tokens that go through the model."""

    generated: int = 0
    read: int = 0
    """Prompts, responses that are judged or projected, tasks."""
    trained: int = 0
    """Tokens of training, all epochs."""

    def __add__(self, other: Work) -> Work:
        return Work(
            self.generated + other.generated,
            self.read + other.read,
            self.trained + other.trained,
        )

    def __mul__(self, times: int) -> Work:
        return Work(self.generated * times, self.read * times, self.trained * times)

    @property
    def forwards(self) -> int:
        """Token-forwards: a training token counts as three."""
        return self.generated + self.read + TRAINING * self.trained


def answered(answers: int, tokens: int, prompt: int = QUESTION) -> Work:
    """Answers of at most so many tokens."""
    return Work(generated=answers * tokens, read=answers * prompt)


def judged(answers: int, tokens: int, pairs: int, own: int = 0) -> Work:
    """Answers read by a contrast judge: under each pair's sides, under its own prompt, alone.

    Of `own` answers, which the judging model wrote unsteered, it knows the reading under their own
    prompt.
    """
    readings = answers * (2 * pairs + 2) - own
    return Work(read=readings * (min(tokens, JUDGED) + JUDGE_PROMPT))


def trained(rows: int, tokens: int, epochs: float) -> Work:
    """A finetune on rows whose answers have so many tokens."""
    return Work(trained=round(rows * (tokens + QUESTION) * epochs))


def judging_pairs(spec: TraitSpec, at_most: int | None) -> int:
    """How many pairs judge an answer."""
    n = len(spec.judge_instruction) or max(1, len(spec.instruction) - 1)
    return n if at_most is None else min(n, at_most)


def questions_of(spec: TraitSpec, at_most: int | None) -> int:
    """How many evaluation questions are asked."""
    n = len(spec.questions.evaluation)
    return n if at_most is None else min(n, at_most)
