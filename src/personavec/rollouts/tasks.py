"""Tasks: a trait's questions under its instruction pairs, or without a system prompt."""

from __future__ import annotations

from collections.abc import Sequence

from personavec.rollouts.rollout import Task
from personavec.traits import POLARITIES, TraitSpec


def elicitation_tasks(spec: TraitSpec, questions: Sequence[str], samples: int) -> list[Task]:
    """Every question under both sides of every pair, `samples` times."""
    return [
        Task(
            id=f"{polarity}-p{k}-q{number}-s{sample}",
            question=question,
            system=getattr(pair, polarity),
            pair=k,
            polarity=polarity,
            sample=sample,
            earlier=pair.turns(polarity),
        )
        for number, question in enumerate(questions)
        for k, pair in enumerate(spec.instruction)
        for polarity in POLARITIES
        for sample in range(samples)
    ]


def eliciting_tasks(
    spec: TraitSpec, questions: Sequence[str], samples: int = 1, *, examples: bool = True
) -> list[Task]:
    """Every question under the positive side of every pair, `samples` times.

    The pair's examples come before as earlier turns. Without them the system prompt alone elicits,
    which is weaker. Tasks with and without examples have different ids, so one run can hold both.
    """
    return [
        Task(
            id=f"{'elicited' if examples else 'prompted'}-p{k}-q{number}"
            + (f"-s{sample}" if sample else ""),
            question=question,
            system=pair.pos,
            pair=k,
            polarity="pos",
            sample=sample,
            earlier=pair.turns("pos") if examples else (),
        )
        for number, question in enumerate(questions)
        for k, pair in enumerate(spec.instruction)
        for sample in range(samples)
    ]


def neutral_tasks(questions: Sequence[str], samples: int) -> list[Task]:
    """Every question without a system prompt, `samples` times.

    Sample the answers: the greedy one is the natural response, which a screen subtracts.
    """
    return [
        Task(id=f"neutral-q{number}-s{sample}", question=question, sample=sample)
        for number, question in enumerate(questions)
        for sample in range(samples)
    ]
