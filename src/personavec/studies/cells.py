"""Cells of a grid of finetunes: everything that is measured of one model.

A bench holds what all cells share: the base model in memory, the questions, the held-out rows, the
neutral texts. A cell's numbers are plain lists in the order of the questions, rows or items that
they belong to, so that cells can be compared in pairs. Answers are judged later, those of all
cells together, when no adapter is on the base.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from personavec.data import DataRow
from personavec.errors import DataError
from personavec.evaluate import (
    Cue,
    HarnessTask,
    TaskScore,
    capability,
    last_prompt_states,
    leaves_room,
    longest_question,
)
from personavec.finetune import TrainingText, mean_losses
from personavec.judges import Judge
from personavec.model import Action, LoadedModel, steering_forwards
from personavec.model.engine import Sampling
from personavec.progress import Progress
from personavec.rollouts import Rollout, Task, collect, judged
from personavec.runs import atomic_write, read_as, read_records
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector, projections
from personavec.wording import plural


@dataclass(frozen=True, eq=False)
class Bench:
    """What all cells are measured on."""

    base: LoadedModel
    vectors: tuple[PersonaVector, ...]
    questions: Mapping[str, tuple[str, ...]]
    """Held-out questions, by trait."""
    tasks: tuple[Task, ...]
    """Answers to ask for; an id begins with its trait, and then `plain` or `cue`."""
    sampling: Sampling
    held_out: tuple[TrainingText, ...] = ()
    """Texts of held-out rows of the training data."""
    texts: tuple[str, ...] = ()
    """Neutral texts, for perplexity."""
    capability: HarnessTask | None = None
    capability_items: int | None = None
    batch_tokens: int = 16384
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))


@dataclass(frozen=True, eq=False)
class Measured:
    """What came of one cell."""

    answers: tuple[Rollout, ...]
    """Unjudged until `judge_cells`."""
    projections: Mapping[str, list[float]]
    """Of the last prompt token, for every question of a trait."""
    held_out: list[float]
    """Loss of every held-out text, in nats a token."""
    surprise: list[list[float]]
    """For every neutral text, negative log-probabilities of its tokens, in nats."""
    capability: TaskScore | None

    def of(self, trait: str, variant: str = "plain") -> list[Rollout]:
        """The answers to one trait's questions, plain or under cues."""
        return [
            r for r in self.answers if r.id.rpartition("/")[2].startswith(f"{trait}-{variant}-")
        ]


@dataclass(frozen=True)
class CellFigures:
    """What `measured.json` keeps of a cell; its answers are kept beside it."""

    projections: dict[str, list[float]]
    """Of the last prompt token, for every question of a trait."""
    held_out: list[float]
    """Loss of every held-out text, in nats a token."""
    surprise: list[list[float]]
    """For every neutral text, negative log-probabilities of its tokens, in nats."""
    capability: TaskScore | None = None


def measure(
    bench: Bench, loaded: LoadedModel, folder: Path, *, steering: Sequence[Action] = ()
) -> Measured:
    """Measure a model, steered or not; what is in `folder` already is read back.

    Steering acts where answers are chosen, and at every position of texts that are given.
    """
    answers = collect(
        loaded,
        [replace(task, steering=tuple(steering)) for task in bench.tasks],
        bench.sampling,
        folder,
        batch_tokens=bench.batch_tokens,
        label=folder.name,
        progress=bench.progress,
    )
    path = folder / "measured.json"
    if not path.exists():
        atomic_write(path, json.dumps(asdict(_figures(bench, loaded, steering))))
    found = read_as(path, CellFigures, "delete it, and the model is measured again")
    return Measured(
        answers=tuple(answers),
        projections=found.projections,
        held_out=found.held_out,
        surprise=found.surprise,
        capability=found.capability,
    )


def _figures(bench: Bench, loaded: LoadedModel, steering: Sequence[Action]) -> CellFigures:
    """Everything but the answers."""
    everywhere = [replace(s, positions="all") for s in steering]
    with steering_forwards(loaded.model, everywhere) if steering else nullcontext():
        found = CellFigures(
            projections=_projections(bench, loaded),
            held_out=mean_losses(loaded, bench.held_out) if bench.held_out else [],
            surprise=[values.tolist() for values in capability.surprise(loaded, bench.texts)],
        )
    if bench.capability is None:
        return found
    score = capability.run_task(
        loaded,
        bench.capability,
        steering=steering,
        max_items=bench.capability_items,
        batch_tokens=bench.batch_tokens,
        quiet=True,
    )
    return replace(found, capability=score)


def is_measured(folder: Path, bench: Bench) -> bool:
    """Whether nothing of a cell needs its model any more."""
    path = folder / "generated.jsonl"
    return len(read_records(path)) >= len(bench.tasks) and (folder / "measured.json").exists()


def _projections(bench: Bench, loaded: LoadedModel) -> dict[str, list[float]]:
    found = {}
    for vector in bench.vectors:
        states = last_prompt_states(
            loaded,
            bench.questions[vector.trait],
            vector.layer,
            batch_tokens=bench.batch_tokens,
        )
        found[vector.trait] = projections(states, vector.direction(vector.layer)).tolist()
    return found


def answer_tasks(
    spec: TraitSpec,
    questions: Sequence[str],
    samples: int,
    *,
    cues: Sequence[Cue] = (),
    fits: LoadedModel | None = None,
    new_tokens: int = 64,
) -> list[Task]:
    """Every question as it is, and once more under a cue where there are cues.

    Cues that leave no room for an answer of `new_tokens` in the context of `fits` are left out.
    Raises DataError when none leaves room.
    """
    tasks = [
        Task(f"{spec.name}-plain-q{number}-s{sample}", question, sample=sample)
        for number, question in enumerate(questions)
        for sample in range(samples)
    ]
    if not cues or fits is None:
        return tasks
    longest = longest_question(fits, questions)
    fitting = (cue for cue in cues if leaves_room(cue, fits, longest, new_tokens))
    usable = list(islice(fitting, len(tasks)))
    if not usable:
        raise DataError("no cue of the data leaves room for a question and its answer")
    return tasks + [
        replace(
            task,
            id=task.id.replace("-plain-", "-cue-"),
            system=usable[i % len(usable)].system,
            earlier=usable[i % len(usable)].earlier,
        )
        for i, task in enumerate(tasks)
    ]


def _all_answers(cells: Mapping[str, Measured], trait: str) -> list[Rollout]:
    """A trait's answers of all cells, the cell's name in their ids."""
    return [
        replace(rollout, id=f"{name}/{rollout.id}")
        for name, found in cells.items()
        for variant in ("plain", "cue")
        for rollout in found.of(trait, variant)
    ]


def judge_cells(
    cells: Mapping[str, Measured],
    specs: Iterable[TraitSpec],
    judge: Judge,
    folder: Path,
    progress: Progress,
) -> dict[str, Measured]:
    """The cells with their answers judged, by name.

    All answers to one question are judged together, so that the judge's prompts run once for all
    cells.
    """
    scored: dict[str, list[Rollout]] = {name: [] for name in cells}
    for spec in specs:
        for rollout in judged(
            judge,
            _all_answers(cells, spec.name),
            spec,
            folder / spec.name,
            label=f"{spec.name}, all",
            progress=progress,
        ):
            scored[rollout.id.rpartition("/")[0]].append(rollout)
    return {name: replace(found, answers=tuple(scored[name])) for name, found in cells.items()}


def split_rows(
    rows: Sequence[DataRow], share: float, seed: int = 0
) -> tuple[tuple[DataRow, ...], tuple[DataRow, ...]]:
    """Rows to train on and rows held out, which share no prompt; about `share` of the prompts.

    Raises DataError where a side would be empty.
    """
    prompts = list(dict.fromkeys(json.dumps(row.messages[:-1]) for row in rows))
    n = round(share * len(prompts))
    held = set(random.Random(seed).sample(prompts, n))
    sides: tuple[list[DataRow], list[DataRow]] = ([], [])
    for row in rows:
        sides[json.dumps(row.messages[:-1]) in held].append(row)
    if share > 0 and not all(sides):
        raise DataError(
            f"{plural(len(prompts), 'distinct prompt')} cannot be divided into training and "
            "held-out rows; give more rows"
        )
    return tuple(sides[0]), tuple(sides[1])


def pooled_surprise(cells: Sequence[Measured]) -> tuple[np.ndarray, list[int]]:
    """Every token's surprise in several cells, and the number of the text it is from."""
    values = [value for cell in cells for text in cell.surprise for value in text]
    numbers = [n for cell in cells for n, text in enumerate(cell.surprise) for _ in text]
    return np.array(values), numbers
