"""The answers that an evaluation rests on: asked, generated, judged.

A trait's answers are kept in cells: by who answers, the `model` or the `other` one, and by how
the question is asked, `plain` or under a `cue`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from personavec.evaluate.config import SIZES, EvaluateConfig
from personavec.evaluate.cues import Cue
from personavec.evaluate.results import Variant
from personavec.evaluate.subject import Arm, Subject, Subjects
from personavec.judges import Judge
from personavec.model import Cap
from personavec.model.engine import Sampling
from personavec.progress import Progress
from personavec.rollouts import Rollout, Task, collect, judged, say_estimate, write_rollouts
from personavec.traits import TraitSpec

Cell: TypeAlias = tuple[Arm, Variant]
#: A trait's answers.
Cells = Mapping[Cell, list[Rollout]]


def questions_of(spec: TraitSpec, config: EvaluateConfig) -> tuple[str, ...]:
    """The evaluation questions that are asked.

    Raises UsageError for more than there are, unless it is a preset that says so.
    """
    n = config.questions
    if n is not None and n == SIZES["questions"].of(config.preset):
        n = min(n, len(spec.questions.evaluation))
    return spec.last_questions(n)


def tasks_of(
    subjects: Subjects,
    specs: Sequence[TraitSpec],
    config: EvaluateConfig,
    cues: Sequence[Cue],
) -> dict[str, dict[Cell, list[Task]]]:
    """What everyone is asked, by trait and cell."""
    variants: tuple[Variant, ...] = ("plain", "cue") if cues else ("plain",)
    return {
        spec.name: {
            (arm, variant): _tasks(spec, arm, subject, config, cues if variant == "cue" else ())
            for arm, subject in subjects.items()
            for variant in variants
        }
        for spec in specs
    }


def _tasks(
    spec: TraitSpec, arm: Arm, subject: Subject, config: EvaluateConfig, cues: Sequence[Cue]
) -> list[Task]:
    """One cell's tasks. Cells are compared, so their tasks share the sampling noise."""
    steering = tuple(s for s in subject.steering() if isinstance(s, Cap) or s.coefficient)
    variant = "cue" if cues else "plain"
    tasks = []
    for number, question in enumerate(questions_of(spec, config)):
        for sample in range(config.samples):
            cue = cues[len(tasks) % len(cues)] if cues else Cue()
            tasks.append(
                Task(
                    id=f"{arm}-{variant}-{spec.name}-q{number}-s{sample}",
                    question=question,
                    system=config.system if cue.system is None else cue.system,
                    sample=sample,
                    steering=steering,
                    earlier=cue.earlier,
                    noise=f"{spec.name}-q{number}-s{sample}",
                )
            )
    return tasks


def answer(
    subjects: Subjects,
    tasks: Mapping[str, Mapping[Cell, list[Task]]],
    config: EvaluateConfig,
    folder: Path,
    progress: Progress,
) -> dict[str, Rollout]:
    """The answers to all tasks, by id. All that one model answers goes through it together."""
    found: dict[str, Rollout] = {}
    for number, subject in enumerate(by_model(subjects)):
        arms = {arm for arm, each in subjects.items() if each.loaded is subject.loaded}
        own = [
            task
            for cells in tasks.values()
            for (arm, _), some in cells.items()
            for task in some
            if arm in arms
        ]
        collected = _writer(subject, config, folder / f"model-{number}", progress)(own)
        found |= {rollout.id: rollout for rollout in collected}
    return found


def estimate(
    subjects: Subjects,
    specs: Sequence[TraitSpec],
    tasks: Mapping[str, Mapping[Cell, list[Task]]],
    judge: Judge,
    config: EvaluateConfig,
    folder: Path,
    progress: Progress,
) -> None:
    """Say how long all answers will take, by the model's first ones; not where some are there."""
    spec, subject = specs[0], by_model(subjects)[0]
    if (folder / "model-0" / "generated.jsonl").exists():
        return
    write = _writer(subject, config, folder / "model-0", progress)
    judging = spec.at_most(judge_pairs=config.judge_pairs)
    to_come = sum(len(some) for cells in tasks.values() for some in cells.values())
    say_estimate(
        tasks[spec.name]["model", "plain"],
        write,
        lambda some: judged(
            judge, write(some), judging, folder, label=spec.name, progress=progress
        ),
        to_write=to_come,
        to_judge=to_come,
        progress=progress,
    )


def by_model(subjects: Subjects) -> list[Subject]:
    """One subject for each loaded model."""
    return list({id(subject.loaded): subject for subject in subjects.values()}.values())


def _writer(
    subject: Subject, config: EvaluateConfig, folder: Path, progress: Progress
) -> Callable[[Sequence[Task]], list[Rollout]]:
    """Writes a model's answers into a folder."""
    return partial(
        collect,
        subject.loaded,
        sampling=Sampling(config.max_tokens, config.temperature, config.top_p, config.seed),
        folder=folder,
        batch_tokens=config.batch_tokens,
        engine=subject.engine,
        label=subject.name,
        progress=progress,
    )


def judge_answers(
    judge: Judge,
    spec: TraitSpec,
    tasks: Mapping[Cell, list[Task]],
    answers: Mapping[str, Rollout],
    config: EvaluateConfig,
    out: Path,
    progress: Progress,
) -> dict[Cell, list[Rollout]]:
    """One trait's answers with their scores, by cell; writes them to `rollouts/`."""
    own = [answers[task.id] for some in tasks.values() for task in some]
    judging = spec.at_most(judge_pairs=config.judge_pairs)
    scored = judged(judge, own, judging, out / "run", label=spec.name, progress=progress)
    write_rollouts(out / "rollouts" / f"{spec.name}.jsonl", scored)
    by_id = {rollout.id: rollout for rollout in scored}
    return {cell: [by_id[task.id] for task in some] for cell, some in tasks.items()}
