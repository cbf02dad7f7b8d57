"""Evaluate how strongly a model shows traits: as it is, finetuned, or steered.

Evaluation questions are answered, judged, and summarised per trait with intervals clustered by
question; beside another model where one is named, under the cues of training data where they are
given, and with the capability that is left.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from personavec.data import ReadingCounts
from personavec.errors import DataError, UsageError
from personavec.evaluate import capability
from personavec.evaluate.capability import TaskScore
from personavec.evaluate.cues import Cue, Cues
from personavec.evaluate.report import write_evaluation_report
from personavec.judges import (
    COHERENCE_FLOOR,
    ContrastJudge,
    Judge,
    contrast,
    judge_notes,
    readers,
    spec_notes,
)
from personavec.model import (
    Action,
    Cap,
    Layers,
    LoadedModel,
    chat,
    control_notes,
    load_model,
    vector_cap,
    vector_steering,
)
from personavec.model.engine import Engine, Sampling, TransformersEngine
from personavec.progress import Progress
from personavec.results import dump, versions
from personavec.rollouts import (
    Rollout,
    Task,
    bounds,
    collect,
    judged,
    paired,
    summarise,
    write_rollouts,
)
from personavec.runs import atomic_write, claim, lock, read_as
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector
from personavec.wording import plural

#: A trait's rollouts by who answered, `model` or `other`, and how, `plain` or under a `cue`.
Cells = Mapping[tuple[str, str], list[Rollout]]

#: Questions whose answers the report shows.
_SHOWN = 4


@dataclass(frozen=True)
class EvaluateConfig:
    """Everything that decides an evaluation's result, beside the models and the specs."""

    samples: int = 1
    """Responses per question."""
    questions: int | None = None
    """Evaluation questions per trait, the last ones: an extraction selects a vector's layer on
    the first ones. Default: all."""
    system: str | None = None
    """A system prompt before every question."""
    max_tokens: int = 64
    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 1.0
    seed: int = 0
    capability: tuple[str, ...] = ()
    """Names of lm-evaluation-harness tasks; `packaged` is the one that ships with this package."""
    capability_items: int | None = None
    """Only the first items of each capability task; default: all."""
    batch_tokens: int = 16384

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.samples < 1 or self.batch_tokens < 1:
            raise UsageError("max_tokens, samples and batch_tokens must be at least 1")
        if self.questions is not None and self.questions < 2:
            raise UsageError("an interval needs at least 2 questions")


@dataclass(frozen=True, eq=False)
class SteeredBy:
    """A vector that steers: its multiple, and the layer (default: the selected one) or `all`.

    `cap`, a percentile of ordinary tokens, also bounds the projection (see `vector_cap`).
    """

    vector: PersonaVector
    coefficient: float = 0.0
    layer: Layers = None
    cap: float | None = None

    def steering(self) -> tuple[Action, ...]:
        """What it does, at every position that chooses a response token."""
        added = vector_steering(self.vector, self.coefficient, self.layer)
        return added if self.cap is None else (*added, vector_cap(self.vector, self.cap))

    def _capped(self, cap: float) -> dict[str, Any]:
        calibration = self.vector.calibration
        return {"cap": cap, "ceiling": calibration.ceiling(cap) if calibration else None}

    def describe(self) -> dict[str, Any]:
        return {
            "trait": self.vector.trait,
            "coefficient": self.coefficient,
            "layer": self.vector.layer if self.layer is None else self.layer,
            "vector": self.vector.hash,
            **({} if self.cap is None else self._capped(self.cap)),
        }


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to evaluate, as it is or steered."""

    loaded: LoadedModel
    steered_by: tuple[SteeredBy, ...] = ()
    engine: Engine | None = None
    """What generates its answers; default: its transformers model. Capability runs on that."""

    def steering(self) -> tuple[Action, ...]:
        return tuple(s for each in self.steered_by for s in each.steering())

    def describe(self) -> dict[str, Any]:
        return {
            "identity": self.loaded.identity.as_dict(),
            "engine": self.engine.name if self.engine else TransformersEngine.name,
            "steering": [each.describe() for each in self.steered_by],
        }


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
) -> dict[str, Any]:
    """Evaluate a model for traits; returns the results that the report draws.

    The judge is the same for all answers; `default_judge` says which, where none is given. Writes
    `results.json`, `report.html` and `rollouts/` into `out`, and continues what a killed run left
    there. Raises SettingsMismatchError when `out` was begun with other settings,
    VectorMismatchError for a vector of another shape, UsageError for an unknown capability task.
    """
    config = config or EvaluateConfig()
    progress = progress or Progress()
    _check(subject, compare_to, specs)
    judge = judge or default_judge(subject, compare_to)
    # Before anything runs: a wrong name or data out of reach would cost the whole run.
    tasks = capability.load_tasks(config.capability) if config.capability else []
    arms: dict[str, Subject] = {"model": subject}
    if compare_to is not None:
        arms["other"] = compare_to
    with lock(out):
        claim(out, _settings(arms, specs, config, cues, judge))
        started = time.monotonic()
        usable = _usable_cues(cues, arms, specs, config) if cues else ()
        rollouts = _rollouts(arms, specs, config, usable, judge, out, progress)
        measured = {
            arm: _capability(of, arm, tasks, config, out, progress) for arm, of in arms.items()
        }
        results = {
            "model": subject.loaded.identity.name,
            **subject.describe(),
            **_results(arms, rollouts, measured, judge, config.seed),
            "data": {Path(cues.file).name: _told(cues, arms).to_dict()} if cues else {},
            "cue": _cue_results(cues, usable, rollouts, judge, config.seed) if cues else None,
            "judge": judge.identity(),
            "settings": asdict(config),
            "versions": versions(),
            "notes": [
                *_notes(arms, specs, config, judge, cues),
                *_incoherent(rollouts),
                *judge_notes(judge),
                *_control_notes(arms, specs, config, judge),
            ],
            "transcripts": {name: _transcripts(cells) for name, cells in rollouts.items()},
            "seconds": round(time.monotonic() - started, 1),
        }
        atomic_write(out / "results.json", json.dumps(results, ensure_ascii=False, indent=1))
        write_evaluation_report(results, out / "report.html")
    return results


def questions_to_judge(spec: TraitSpec, config: EvaluateConfig, *, repeats: int) -> list[str]:
    """The question of every response for a trait that the judge will score.

    `repeats` is how often a question is asked of all models, with and without cues.
    """
    return [q for q in _questions(spec, config) for _ in range(config.samples * repeats)]


def judging_model(subject: Subject, compare_to: Subject | None = None) -> LoadedModel:
    """The model nearest to an untouched one: that compared to, an adapter's base, or its own.

    A finetuned model is no judge of what finetuning did to it, and two models are compared by
    one judge.
    """
    if compare_to is not None:
        return compare_to.loaded
    identity = subject.loaded.identity
    if identity.declared_base:
        device = str(subject.loaded.device)
        return load_model(identity.declared_base, dtype=identity.dtype, device=device)
    return subject.loaded


def default_judge(subject: Subject, compare_to: Subject | None = None) -> ContrastJudge:
    """The contrast judge on the judging model, unsteered.

    It reads answers by their ids only where it wrote all of them: answers that are compared are
    read in one way.
    """
    loaded = judging_model(subject, compare_to)
    answering = {id(s.loaded) for s in (subject, compare_to) if s is not None}
    return ContrastJudge(loaded, wrote_answers=answering == {id(loaded)})


def _check(subject: Subject, compare_to: Subject | None, specs: Sequence[TraitSpec]) -> None:
    if not specs:
        raise UsageError("no trait to evaluate: name at least one")
    names = [spec.name for spec in specs]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise UsageError(f"trait '{twice[0]}' is given twice")
    for each in (subject, compare_to):
        if each is None:
            continue
        identity = each.loaded.identity
        for dose in each.steered_by:
            dose.vector.check_fits(identity.n_layers, identity.hidden_size)


def _settings(
    arms: Mapping[str, Subject],
    specs: Sequence[TraitSpec],
    config: EvaluateConfig,
    cues: Cues | None,
    judge: Judge,
) -> dict[str, Any]:
    return {
        "command": "evaluate",
        "traits": {spec.name: spec.hash for spec in specs},
        **{arm: subject.describe() for arm, subject in arms.items()},
        "cues": cues.hash if cues else None,
        "judge": judge.identity(),
        "config": asdict(config),
    }


# Rollouts


def _questions(spec: TraitSpec, config: EvaluateConfig) -> tuple[str, ...]:
    return spec.last_questions(config.questions)


def _rollouts(
    arms: Mapping[str, Subject],
    specs: Sequence[TraitSpec],
    config: EvaluateConfig,
    cues: Sequence[Cue],
    judge: Judge,
    out: Path,
    progress: Progress,
) -> dict[str, dict[tuple[str, str], list[Rollout]]]:
    """By trait, then by arm and variant. All that one model answers goes through together."""
    variants = ("plain", "cue") if cues else ("plain",)
    cells = {
        (spec.name, arm, variant): _tasks(spec, arm, variant, subject, config, cues)
        for spec in specs
        for arm, subject in arms.items()
        for variant in variants
    }
    sampling = Sampling(config.max_tokens, config.temperature, config.top_p, config.seed)
    folder = out / "run"
    found: dict[str, Rollout] = {}
    for number, answering in enumerate({id(s.loaded): s for s in arms.values()}.values()):
        loaded = answering.loaded
        tasks = [t for (_, arm, _), ts in cells.items() for t in ts if arms[arm].loaded is loaded]
        collected = collect(
            loaded,
            tasks,
            sampling,
            folder / f"model-{number}",
            batch_tokens=config.batch_tokens,
            engine=answering.engine,
            label=loaded.identity.name,
            progress=progress,
        )
        found |= {r.id: r for r in collected}
    by_trait: dict[str, dict[tuple[str, str], list[Rollout]]] = {}
    for spec in specs:
        mine = {key[1:]: tasks for key, tasks in cells.items() if key[0] == spec.name}
        answers = [found[task.id] for tasks in mine.values() for task in tasks]
        scored = judged(judge, answers, spec, folder, label=spec.name, progress=progress)
        by_id = {r.id: r for r in scored}
        by_trait[spec.name] = {key: [by_id[t.id] for t in tasks] for key, tasks in mine.items()}
        write_rollouts(out / "rollouts" / f"{spec.name}.jsonl", scored)
    return by_trait


def _tasks(
    spec: TraitSpec,
    arm: str,
    variant: str,
    subject: Subject,
    config: EvaluateConfig,
    cues: Sequence[Cue],
) -> list[Task]:
    """Arms and variants are compared, and share their noise."""
    steering = tuple(s for s in subject.steering() if isinstance(s, Cap) or s.coefficient)
    tasks = []
    for number, question in enumerate(_questions(spec, config)):
        for sample in range(config.samples):
            cue = cues[len(tasks) % len(cues)] if variant == "cue" else Cue()
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


def _usable_cues(
    cues: Cues,
    arms: Mapping[str, Subject],
    specs: Sequence[TraitSpec],
    config: EvaluateConfig,
) -> tuple[Cue, ...]:
    """The cues in an order drawn by the seed, without those that leave no room for an answer.

    No more than the largest trait has responses to put them before.
    """
    by_trait = [_questions(spec, config) for spec in specs]
    asked = [question for questions in by_trait for question in questions]
    places = max(map(len, by_trait)) * config.samples
    fitting = []
    for cue in random.Random(config.seed).sample(cues.cues, len(cues.cues)):
        if len(fitting) == places:
            break
        system = config.system if cue.system is None else cue.system
        if all(_fits(s.loaded, asked, system, cue, config.max_tokens) for s in arms.values()):
            fitting.append(cue)
    if not fitting:
        raise DataError(
            f"{cues.file}: with any of its cues ({len(cues.cues)}) before it, no question leaves "
            f"room for {plural(config.max_tokens, 'token')} in the model's context; "
            "lower --max-tokens"
        )
    return tuple(fitting)


def _fits(
    loaded: LoadedModel, questions: Sequence[str], system: str | None, cue: Cue, new_tokens: int
) -> bool:
    longest = max(questions, key=lambda question: len(loaded.chat.response_ids(question)))
    prompt = loaded.chat.prompt_ids(chat(longest, system, cue.earlier))
    return len(prompt) + new_tokens <= loaded.context


# Capability


def _capability(
    subject: Subject,
    arm: str,
    tasks: Sequence[capability.HarnessTask],
    config: EvaluateConfig,
    out: Path,
    progress: Progress,
) -> dict[str, TaskScore]:
    """Each task once: what a finished one gave is read back."""
    scores = {}
    for task in tasks:
        path = out / "capability" / f"{arm}-{task.name.replace('/', '_')}.json"
        if not path.exists():
            found = capability.run_task(
                subject.loaded,
                task,
                steering=subject.steering(),
                max_items=config.capability_items,
                batch_tokens=config.batch_tokens,
                quiet=progress.quiet,
            )
            atomic_write(path, json.dumps(found.as_dict()))
        again = "delete it, and the task is run again"
        scores[task.name] = read_as(path, TaskScore, again)
    return scores


def _capability_results(scores: Mapping[str, TaskScore], seed: int) -> dict[str, Any]:
    return {
        name: {
            **bounds(capability.interval(score, seed)),
            "n": len(score.items),
            "metric": score.metric,
            "chance": score.chance,
        }
        for name, score in scores.items()
    }


# What the rollouts say


def _results(
    arms: Mapping[str, Subject],
    rollouts: Mapping[str, Cells],
    measured: Mapping[str, Mapping[str, TaskScore]],
    judge: Judge,
    seed: int,
) -> dict[str, Any]:
    own = {
        "traits": _summaries(rollouts, "model", "plain", judge, seed),
        "capability": _capability_results(measured["model"], seed),
    }
    if "other" not in arms:
        return {**own, "compare_to": None}
    other = arms["other"]
    return {
        **own,
        "compare_to": {
            "model": other.loaded.identity.name,
            **other.describe(),
            "traits": _summaries(rollouts, "other", "plain", judge, seed),
            "differences": _differences(rollouts, ("model", "plain"), ("other", "plain"), seed),
            "capability": _capability_results(measured["other"], seed),
            "capability_differences": {
                name: bounds(capability.difference(score, measured["other"][name], seed))
                for name, score in measured["model"].items()
            },
        },
    }


def _cue_results(
    cues: Cues, usable: Sequence[Cue], rollouts: Mapping[str, Cells], judge: Judge, seed: int
) -> dict[str, Any]:
    compared = any(("other", "cue") in cells for cells in rollouts.values())
    return {
        "file": cues.file,
        "rows": cues.rows,
        "rejected": cues.rejected,
        "system_prompts": sum(cue.system is not None for cue in cues.cues),
        "opening_turns": sum(bool(cue.earlier) for cue in cues.cues),
        "used": len(usable),
        "traits": _summaries(rollouts, "model", "cue", judge, seed),
        "differences": _differences(rollouts, ("model", "cue"), ("model", "plain"), seed),
        "compare_to": {
            "traits": _summaries(rollouts, "other", "cue", judge, seed),
            "differences": _differences(rollouts, ("model", "cue"), ("other", "cue"), seed),
        }
        if compared
        else None,
    }


def _summaries(
    rollouts: Mapping[str, Cells], arm: str, variant: str, judge: Judge, seed: int
) -> dict[str, Any]:
    return {
        name: dump(summarise(cells[arm, variant], refusals=judge.name != contrast.NAME, seed=seed))
        for name, cells in rollouts.items()
    }


def _differences(
    rollouts: Mapping[str, Cells],
    ours: tuple[str, str],
    theirs: tuple[str, str],
    seed: int,
) -> dict[str, Any]:
    return {
        name: dump(paired(cells[ours], cells[theirs], seed)) for name, cells in rollouts.items()
    }


def _transcripts(cells: Cells) -> list[dict[str, Any]]:
    """The first questions' first answers by everyone who answered, one cue of each."""
    questions = list(dict.fromkeys(r.question for rs in cells.values() for r in rs))[:_SHOWN]
    return [
        {
            "question": question,
            "answers": [
                {
                    "arm": arm,
                    "variant": variant,
                    "response": r.response,
                    "state": r.state,
                    "trait_score": r.trait_score,
                    "log_odds": r.log_odds,
                    "coherence": r.coherence,
                }
                for (arm, variant), rs in cells.items()
                for r in rs
                if r.question == question and r.sample == 0
            ],
        }
        for question in questions
    ]


def _notes(
    arms: Mapping[str, Subject],
    specs: Sequence[TraitSpec],
    config: EvaluateConfig,
    judge: Judge,
    cues: Cues | None,
) -> list[str]:
    """What a reader must know before believing a number."""
    notes: list[str] = []
    for subject in arms.values():
        identity = subject.loaded.identity
        notes += subject.loaded.chat.notes
        for dose in subject.steered_by:
            warning = dose.vector.other_model_warning(*identity.lineage)
            notes += [f"{warning[0].upper()}{warning[1:]}."] if warning else []
            notes += _layer_notes(dose, specs, config)
    if judge.name == contrast.NAME:
        notes.append("The contrast judge does not tell refusals: they are scored as they read.")
    if min(len(_questions(spec, config)) for spec in specs) < 10:
        notes.append("Intervals from fewer than ten questions are too narrow.")
    if cues and any(cue.earlier for cue in cues.cues):
        notes.append(
            "Turns of the training data before a question move an untouched model too: compare "
            "with one under the same cues (--compare-to) before blaming the finetuning."
        )
    return list(dict.fromkeys(notes))


def _control_notes(
    arms: Mapping[str, Subject], specs: Sequence[TraitSpec], config: EvaluateConfig, judge: Judge
) -> list[str]:
    forms = readers(judge, *(subject.loaded for subject in arms.values()))
    found = control_notes(forms, chat("", config.system))
    return [*spec_notes(specs, forms), *(f"System prompt: {note}." for note in found)]


def _told(cues: Cues, arms: Mapping[str, Subject]) -> ReadingCounts:
    """What reading the cues' rows has to tell, and what of that the models' tokenizers know."""
    forms = readers(None, *(subject.loaded for subject in arms.values()))
    found = cues.told + ReadingCounts()
    for cue, rows in cues.begun.items():
        for note in control_notes(forms, chat("", cue.system, cue.earlier)):
            found.notes[note] += rows
    return found


def _incoherent(rollouts: Mapping[str, Cells]) -> list[str]:
    """Broken text is no trait, whatever it scores."""
    found = []
    for name, cells in rollouts.items():
        for (arm, variant), rs in cells.items():
            values = [r.coherence for r in rs if r.coherence is not None]
            if values and (mean := sum(values) / len(values)) < COHERENCE_FLOOR:
                who = "the model" if arm == "model" else "the model compared to"
                found.append(
                    f"Mean coherence of {who} on {name}{' under cues' if variant == 'cue' else ''} "
                    f"is {mean:.0f}, below {COHERENCE_FLOOR:g}: its score there means little."
                )
    return found


def _layer_notes(dose: SteeredBy, specs: Sequence[TraitSpec], config: EvaluateConfig) -> list[str]:
    """Questions on which the vector's layer was selected flatter the steering."""
    meta = dose.vector.meta
    selected_on = meta.get("settings", {}).get("sweep_questions", 0)
    return [
        f"The layer of the {dose.vector.trait} vector was selected on {selected_on} of the "
        f"{len(spec.questions.evaluation)} evaluation questions; --questions "
        f"{len(spec.questions.evaluation) - selected_on} leaves them out."
        for spec in specs
        if dose.layer is None
        and selected_on
        and meta.get("spec_hash") == spec.hash
        and len(_questions(spec, config)) > len(spec.questions.evaluation) - selected_on
    ]
