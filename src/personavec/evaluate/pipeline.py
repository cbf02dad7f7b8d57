"""Evaluate how strongly a model shows traits: as it is, finetuned, or steered.

1. The model answers the evaluation questions, beside the model that it is compared to, and once
   more under the cues of training data where they are given.
2. One judge scores all answers.
3. Every trait gets its means and paired differences, with intervals clustered by question.
4. Capability tasks measure what the model can still do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from personavec import results as base
from personavec.evaluate import capability, figures
from personavec.evaluate.answers import (
    Cells,
    answer,
    by_model,
    estimate,
    judge_answers,
    questions_of,
    tasks_of,
)
from personavec.evaluate.capability import HarnessTask, TaskScore
from personavec.evaluate.config import EvaluateConfig
from personavec.evaluate.cues import Cue, Cues, usable_cues
from personavec.evaluate.notes import cue_reading, notes_of
from personavec.evaluate.report import write_evaluation_report
from personavec.evaluate.results import EvaluateResults, SubjectRecord
from personavec.evaluate.subject import Arm, Subject, Subjects, check_subjects, default_judge
from personavec.judges import Judge
from personavec.progress import Progress
from personavec.results import dump, versions
from personavec.runs import Settings, atomic_write, claim, lock, read_as
from personavec.traits import TraitSpec


def run(
    subject: Subject,
    specs: Sequence[TraitSpec],
    out: Path,
    config: EvaluateConfig | None = None,
    *,
    compare_to: Subject | None = None,
    cues: Cues | None = None,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> EvaluateResults:
    """Evaluate a model for traits; returns the results that the report draws.

    One judge scores all answers, by default that of `default_judge`. Writes `results.json`,
    `report.html` and `rollouts/` into `out`, and continues what a killed run left there. Raises
    SettingsMismatchError when `out` was begun with other settings, VectorMismatchError for a
    vector of another shape, UsageError for an unknown capability task.
    """
    config = config or EvaluateConfig()
    progress = progress or Progress()
    subjects: dict[Arm, Subject] = {"model": subject}
    if compare_to is not None:
        subjects["other"] = compare_to
    check_subjects(subjects, specs)
    judge = judge or default_judge(subject, compare_to)
    # Loaded before anything runs, since a wrong name would cost the whole run.
    harness = capability.load_tasks(config.capability) if config.capability else []
    with lock(out):
        claim(out, _settings(subjects, specs, config, cues, judge))
        started = time.monotonic()
        used = _usable(cues, subjects, specs, config)
        tasks = tasks_of(subjects, specs, config, used)
        progress.stages(
            *(f"answers of {subject.name}" for subject in by_model(subjects)),
            f"judging {', '.join(spec.name for spec in specs)}",
            *(f"capability: {task.name}" for task in harness),
            "report",
        )
        estimate(subjects, specs, tasks, judge, config, out / "run", progress)
        answers = answer(subjects, tasks, config, out / "run", progress)
        by_trait = {
            spec.name: judge_answers(judge, spec, tasks[spec.name], answers, config, out, progress)
            for spec in specs
        }
        scores = _capability(subjects, harness, config, out / "capability", progress)
        found = _results(subjects, specs, config, judge, cues, used, by_trait, scores, started)
        base.write(out / "results.json", found)
        write_evaluation_report(found, out / "report.html")
    return found


def questions_to_judge(spec: TraitSpec, config: EvaluateConfig, *, repeats: int) -> list[str]:
    """The question of every response for a trait that the judge will score.

    `repeats` is how often a question is asked of all models, with and without cues.
    """
    return [q for q in questions_of(spec, config) for _ in range(config.samples * repeats)]


def _settings(
    subjects: Subjects,
    specs: Sequence[TraitSpec],
    config: EvaluateConfig,
    cues: Cues | None,
    judge: Judge,
) -> Settings:
    """What a continued run must share."""
    return {
        "command": "evaluate",
        "traits": {spec.name: spec.hash for spec in specs},
        **{arm: dump(SubjectRecord.of(subject)) for arm, subject in subjects.items()},
        "cues": cues.hash if cues else None,
        "judge": judge.identity(),
        "config": asdict(config),
    }


def _usable(
    cues: Cues | None, subjects: Subjects, specs: Sequence[TraitSpec], config: EvaluateConfig
) -> tuple[Cue, ...]:
    if cues is None:
        return ()
    models = [subject.loaded for subject in subjects.values()]
    return usable_cues(cues, models, [questions_of(spec, config) for spec in specs], config)


def _capability(
    subjects: Subjects,
    tasks: Sequence[HarnessTask],
    config: EvaluateConfig,
    folder: Path,
    progress: Progress,
) -> dict[Arm, dict[str, TaskScore]]:
    """Every model's score on every task; tasks that are finished are read back."""
    scores: dict[Arm, dict[str, TaskScore]] = {arm: {} for arm in subjects}
    for arm, subject in subjects.items():
        for task in tasks:
            path = folder / f"{arm}-{task.name.replace('/', '_')}.json"
            if not path.exists():
                found = _task_score(subject, task, config, progress)
                atomic_write(path, json.dumps(asdict(found)))
            remedy = "delete it, and the task is run again"
            scores[arm][task.name] = read_as(path, TaskScore, remedy)
    return scores


def _task_score(
    subject: Subject, task: HarnessTask, config: EvaluateConfig, progress: Progress
) -> TaskScore:
    return capability.run_task(
        subject.loaded,
        task,
        steering=subject.steering(),
        max_items=config.capability_items,
        batch_tokens=config.batch_tokens,
        quiet=progress.quiet,
    )


def _results(
    subjects: Subjects,
    specs: Sequence[TraitSpec],
    config: EvaluateConfig,
    judge: Judge,
    cues: Cues | None,
    used: Sequence[Cue],
    by_trait: Mapping[str, Cells],
    scores: Mapping[Arm, Mapping[str, TaskScore]],
    started: float,
) -> EvaluateResults:
    subject, other, seed = subjects["model"], subjects.get("other"), config.seed
    return EvaluateResults(
        **SubjectRecord.of(subject).__dict__,
        model=subject.name,
        traits=figures.expressions(by_trait, ("model", "plain"), judge, seed),
        capability=figures.capability_results(scores["model"], seed),
        compare_to=figures.compared_model(
            other, by_trait, scores["model"], scores["other"], judge, seed
        )
        if other
        else None,
        data={Path(cues.file).name: cue_reading(cues, subjects).record()} if cues else {},
        cue=figures.cue_results(cues, used, by_trait, judge, seed) if cues else None,
        judge=judge.identity(),
        settings=config,
        versions=versions(),
        notes=notes_of(subjects, specs, config, judge, cues, by_trait),
        transcripts={trait: figures.transcripts(cells) for trait, cells in by_trait.items()},
        seconds=round(time.monotonic() - started, 1),
    )
