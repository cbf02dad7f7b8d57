"""The tasks of a calibration: questions under conditions that elicit the trait to a degree.

A condition is one of the spec's eight monitoring prompts, or a number of earlier turns that show
the trait.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from personavec.model import EarlierTurns, LoadedModel
from personavec.monitor.config import CalibrateConfig
from personavec.rollouts import Rollout, Task, prompt_ids
from personavec.traits import TraitSpec, neutral_prompts, question_bank

#: Least number of examples in a condition with examples.
_MIN_EXAMPLES = 2


@dataclass(frozen=True)
class CalibrationTask:
    """A question under one condition."""

    task: Task
    condition: str
    fits: bool
    """True if the forecast is fitted on its answer, False if it is tested on it."""


def example_tasks(spec: TraitSpec, config: CalibrateConfig) -> list[Task]:
    """Questions of the bank that are not in the spec, with the positive prompts in rotation."""
    own = {*spec.questions.extraction, *spec.questions.evaluation}
    asked = [question for question in question_bank() if question not in own]
    pairs = spec.instruction
    return [
        Task(
            id=f"example-{i}",
            question=question,
            system=pairs[i % len(pairs)].pos,
            pair=i % len(pairs),
            polarity="pos",
            earlier=pairs[i % len(pairs)].turns("pos"),
        )
        for i, question in enumerate(asked[: config.example_questions])
    ]


def expected(spec: TraitSpec, config: CalibrateConfig) -> dict[str, int]:
    """How many answers are to be written and to be judged, at most."""
    questions = config.fit_questions + config.test_questions
    asked = questions * (len(spec.monitoring) + len(config.shots))
    to_judge = config.example_questions + asked
    return {"to_write": to_judge + config.neutral_prompts, "to_judge": to_judge}


def best_examples(rollouts: Sequence[Rollout]) -> EarlierTurns:
    """Questions with coherent answers that show the trait, strongest first."""
    shown = [
        r
        for r in rollouts
        if r.trait_score is not None
        and r.trait_score > 50
        and (r.coherence is None or r.coherence >= 50)
    ]
    strength = [r.trait_score if r.log_odds is None else r.log_odds for r in shown]
    order = sorted(range(len(shown)), key=lambda i: -float(strength[i] or 0))
    return tuple((shown[i].question, shown[i].response) for i in order)


def tasks_of_conditions(
    loaded: LoadedModel, spec: TraitSpec, examples: EarlierTurns, config: CalibrateConfig
) -> tuple[list[CalibrationTask], list[str]]:
    """Every question under every condition, and notes on conditions that were left out."""
    questions = [(q, True) for q in spec.questions.extraction[: config.fit_questions]]
    questions += [(q, False) for q in spec.questions.evaluation[-config.test_questions :]]
    usable = examples[: max(config.shots)]
    shots = sorted({n for n in config.shots if n == 0 or _MIN_EXAMPLES <= n <= len(usable)})
    notes = []
    if left := sorted({*config.shots} - {*shots}):
        notes.append(
            f"{len(examples)} of {config.example_questions} answers under the trait's positive "
            f"prompts showed it, so settings of {', '.join(map(str, left))} examples were left out."
        )
    found: list[CalibrationTask] = []
    for number, (question, fits) in enumerate(questions):
        for level, prompt in enumerate(spec.monitoring, start=1):
            task = Task(f"prompt{level}-q{number}", question, prompt)
            found.append(CalibrationTask(task, f"prompt {level}", fits))
        for n in shots:
            earlier = random.Random(f"{config.seed} {number} {n}").sample(usable, n)
            task = Task(f"shots{n}-q{number}", question, earlier=tuple(earlier))
            found.append(CalibrationTask(task, f"{n} examples", fits))
    return _within_context(loaded, found, config.max_tokens, notes)


def _within_context(
    loaded: LoadedModel, tasks: list[CalibrationTask], max_tokens: int, notes: list[str]
) -> tuple[list[CalibrationTask], list[str]]:
    """The tasks that leave room for a response, and `notes` with a note on the others."""
    room = loaded.context - max_tokens
    fitting = [asked for asked in tasks if len(prompt_ids(loaded, asked.task)) <= room]
    if left_out := len(tasks) - len(fitting):
        notes = [
            *notes,
            f"Prompts with examples that exceed the model's context were left out ({left_out}).",
        ]
    return fitting, notes


def neutral_tasks(config: CalibrateConfig) -> list[Task]:
    """Tasks of neutral prompts, whose answers' tokens count as ordinary."""
    prompts = neutral_prompts()[: config.neutral_prompts]
    return [Task(id=f"neutral-{i}", question=question) for i, question in enumerate(prompts)]
