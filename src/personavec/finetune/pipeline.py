"""Finetune a model on rows of data, with a mitigation, watching the traits as it goes.

The paper's section 5: finetuning moves traits; steering toward the vector in training prevents
it. Trains, logs trait drift beside the loss, stops where a condition is met, and continues after
a kill.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from personavec import terminal
from personavec.conditions import Condition
from personavec.data import DataRow, Reject
from personavec.errors import DataError, UsageError
from personavec.finetune.cards import card
from personavec.finetune.config import TrainingConfig
from personavec.finetune.dose import (
    SAMPLE,
    Dose,
    check_sign,
    choose_dose,
    pull_before,
    pull_interval,
)
from personavec.finetune.examples import Example, encode_rows, told_of
from personavec.finetune.hooks import PullAlong, TrainedPositions
from personavec.finetune.mitigations import (
    WITH_COEFFICIENT,
    WITH_VECTOR,
    BaseDivergence,
    Mitigation,
    ProjectionPenalty,
    acting,
    base_projections,
    mitigated_rows,
    penalised,
)
from personavec.finetune.probes import UNITS, Drift, Probes, read_log
from personavec.finetune.rows import TrainingRows
from personavec.finetune.schedule import Schedule
from personavec.finetune.setup import Setup, Trained
from personavec.finetune.training import train
from personavec.model import Layers, LoadedModel, hash_of_files
from personavec.progress import Progress
from personavec.results import versions
from personavec.runs import atomic_write, claim, lock, read_as, read_records
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector

RESULTS = "results.json"


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides a finetune's result, beside the model, the data and the vectors."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    mitigation: Mitigation = field(default_factory=Mitigation)
    layer: Layers = None
    """Where the mitigation acts: a layer, `all`, or each vector's selected one (default)."""
    positions: TrainedPositions = "response"
    drift_every: int = 10
    """Steps between two readings of the probe set."""
    stop_if: tuple[Condition, ...] = ()
    """Conditions on the drift, in sigma or norm, that end the run."""

    def __post_init__(self) -> None:
        if self.drift_every < 1:
            raise UsageError("drift_every must be at least 1")


def run(
    loaded: LoadedModel,
    data: TrainingRows,
    out: Path,
    config: FinetuneConfig | None = None,
    *,
    vectors: Sequence[PersonaVector] = (),
    watch: Sequence[PersonaVector] = (),
    spec: TraitSpec | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Finetune; returns and writes `results.json`, whose keys are those of `finetune --json`.

    `vectors` are what the mitigation works with; they and those in `watch` are read from the
    probe set every `drift_every` steps. `spec` is needed for inoculation: its first positive
    instruction is the system prompt. Writes into `out`: `model/` (the adapter, or the model with
    `full`; loadable with `load_model`), `drift.jsonl`, `rejects.jsonl`, `results.json`,
    `run/checkpoint-N`. Killed and called again with the same arguments, it continues; called on a
    finished run that is still whole it returns the results at once. The loaded model is the base
    again afterwards.

    Results: `model` (path of `out/model`), `weights` (a hash of its files), `mitigation`,
    `coefficient` (what was used; null where there is none), `dose` (how auto chose it; null
    otherwise), `steps`, `loss` (mean over the last tenth of the steps), `losses` (of every step),
    `drift` (path), `stopped` (the condition that ended the run, or null), `rows`, `rejected`,
    `data` (what reading them has to tell), `seconds`, `notes`.

    Raises UsageError for a mitigation that lacks its vector or pulls the wrong way,
    VectorMismatchError, DataError for no usable rows, ActivationError for a loss that is not
    finite, SettingsMismatchError for an `out` begun with other settings.
    """
    config = config or FinetuneConfig()
    progress = progress or Progress()
    processes = PartialState(cpu=loaded.device.type == "cpu")
    main = processes.is_main_process
    job = _Job(loaded, data, out, config, tuple(vectors), tuple(watch), spec, progress)
    _check(job)
    with lock(out) if main else nullcontext():
        if main:
            claim(out, _settings(job))
        processes.wait_for_everyone()
        if (out / RESULTS).exists():
            return _finished(out, config)
        started = time.monotonic()
        # What is generated is generated once; the other processes read it.
        with processes.main_process_first():
            mitigated = mitigated_rows(
                config.mitigation,
                data,
                loaded,
                out / "run" / "rows",
                spec=spec,
                seed=config.training.seed,
                progress=progress,
            )
        examples, rejects = encode_rows(loaded, mitigated.rows, config.training)
        told = told_of(data, examples, rejects)
        rejects = [*data.rejects, *rejects]
        if not examples:
            raise DataError(f"no row is left to train on; the first: {rejects[0].reason}")
        if main and rejects:
            _write_rejects(out / "rejects.jsonl", rejects)
        dose, coefficient, notes = _dosed(job, mitigated.rows, examples)
        drift = Drift(
            Probes(loaded, job.read, layer=config.layer),
            out / "drift.jsonl",
            every=config.drift_every,
            conditions=config.stop_if,
            pull=_pull(job),
            on_reading=_printed(progress) if main else None,
        )
        trained = train(
            loaded,
            examples,
            out / "run",
            _checkpointed(config),
            setup=Setup(
                acting=acting(
                    config.mitigation,
                    loaded,
                    vectors,
                    coefficient,
                    layer=config.layer,
                    positions=config.positions,
                    seed=config.training.seed,
                ),
                pull=drift.pull,
                drift=drift,
                progress=progress if main else Progress(quiet=True),
                label="finetuning",
                **_on_the_loss(job, examples),
            ),
            save_to=out / "model",
        )
        notes = [*mitigated.notes, *notes, *_notes(job, trained)]
        results = {
            "model": str(trained.saved) if trained.saved else None,
            "weights": None,
            "mitigation": config.mitigation.name,
            "coefficient": _shown(coefficient),
            "strength": config.mitigation.strength,
            "dose": dose.as_dict() if dose else None,
            "steps": trained.steps,
            "loss": trained.loss,
            "losses": list(trained.losses),
            "drift": str(out / "drift.jsonl"),
            "stopped": str(drift.stopped) if drift.stopped else None,
            "rows": len({example.row for example in examples}),
            "rejected": len(rejects),
            "data": {data.name: told.to_dict()},
            "seconds": round(time.monotonic() - started, 1),
            "notes": notes,
            "base": loaded.identity.as_dict(),
            "versions": versions(),
        }
        if main:
            if trained.saved:
                _finish_model(trained.saved, job, results)
                results["weights"] = hash_of_files(trained.saved)
            atomic_write(out / RESULTS, json.dumps(results, ensure_ascii=False, indent=1))
        processes.wait_for_everyone()
    return results


@dataclass(frozen=True)
class _Finished:
    """What the results of a finished run must have for it to be found whole."""

    model: str | None
    weights: str | None
    steps: int
    rejected: int


def _finished(out: Path, config: FinetuneConfig) -> dict[str, Any]:
    """The results of a finished run. Raises DataError where a file of it is lost or damaged."""
    path = out / RESULTS
    anew = "delete it to train the last steps again"
    found = read_as(path, _Finished, anew)
    anew = f"delete {path} to train the last steps again"
    if found.model and found.weights != hash_of_files(out / "model"):
        raise DataError(f"{out / 'model'} is not what was trained: a file is lost or other; {anew}")
    read_log(out / "drift.jsonl", config.drift_every, found.steps, anew)
    if found.rejected and not read_records(out / "rejects.jsonl"):
        raise DataError(f"{out / 'rejects.jsonl'} is lost; {anew}")
    return read_as(path, dict[str, Any], anew)


@dataclass(frozen=True, eq=False)
class _Job:
    """What `run` was given."""

    loaded: LoadedModel
    data: TrainingRows
    out: Path
    config: FinetuneConfig
    vectors: tuple[PersonaVector, ...]
    watch: tuple[PersonaVector, ...]
    spec: TraitSpec | None
    progress: Progress

    @property
    def read(self) -> list[PersonaVector]:
        """Every vector once, those of the mitigation first."""
        return list({v.trait: v for v in (*self.watch, *self.vectors)}.values())

    def layer_of(self, vector: PersonaVector) -> int:
        return self.config.layer if isinstance(self.config.layer, int) else vector.layer


def check_inputs(
    mitigation: Mitigation, vectors: Sequence[PersonaVector], spec: TraitSpec | None
) -> None:
    """Raise UsageError where a mitigation lacks what it works with; needs no model."""
    if mitigation.name in WITH_VECTOR and not vectors:
        raise UsageError(f"mitigation {mitigation.name} needs a vector: name it with --vectors")
    if mitigation.name == "inoculation" and spec is None:
        raise UsageError("mitigation inoculation needs a trait: name it with --trait")
    if mitigation.coefficient == "auto" and len(vectors) != 1:
        raise UsageError("--dose auto chooses the coefficient of one vector; name one")


def check_trackers(names: Sequence[str]) -> None:
    """Raise UsageError for a tracker that is unknown, or whose package is missing."""
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    for name in names:
        if name in ("all", "none"):
            continue
        try:
            for tracker in get_reporting_integration_callbacks([name]):
                tracker()
        except (ValueError, RuntimeError, ImportError) as error:
            raise UsageError(f"--report-to {name}: {error}") from error


def _check(job: _Job) -> None:
    check_trackers(job.config.training.report_to)
    mitigation, identity = job.config.mitigation, job.loaded.identity
    for vector in job.read:
        vector.check_fits(identity.n_layers, identity.hidden_size)
        vector.direction(job.layer_of(vector))
    check_inputs(mitigation, job.vectors, job.spec)
    if isinstance(job.config.layer, int) and job.config.layer < 1:
        raise UsageError(f"layer {job.config.layer} cannot be steered: layers count from 1")
    traits = {vector.trait for vector in job.read}
    for condition in job.config.stop_if:
        if condition.trait not in traits or condition.unit not in UNITS:
            raise UsageError(
                f"condition {condition}: conditions on a run are on the vectors it reads "
                f"({', '.join(sorted(traits)) or 'none'}), in {' or '.join(UNITS)}"
            )
        vector = next(v for v in job.read if v.trait == condition.trait)
        spread = float(vector.neutral_prompt_last[job.layer_of(vector), 1])
        if condition.unit == "sigma" and not spread > 0:
            raise UsageError(
                f"condition {condition}: the vector has no spread over neutral prompts, so it has "
                "no sigma; extract it again, or use norm"
            )


def _settings(job: _Job) -> dict[str, Any]:
    config = job.config
    return {
        "command": "finetune",
        "data": job.data.source,
        "model": job.loaded.identity.as_dict(),
        "rows": _rows_hash(job.data),
        "vectors": {v.trait: v.identity for v in job.vectors},
        "watch": {v.trait: v.identity for v in job.watch},
        "spec": job.spec.hash if job.spec else None,
        "training": config.training.as_dict(),
        "mitigation": config.mitigation.as_dict(),
        "layer": config.layer,
        "positions": config.positions,
        "drift_every": config.drift_every,
        "stop_if": [str(condition) for condition in config.stop_if],
    }


def _rows_hash(data: TrainingRows) -> str:
    """What the rows were read as: other columns of the same file are other data."""
    rows = [[row.index, row.messages, row.index in data.flagged] for row in data.rows]
    return hashlib.blake2b(json.dumps(rows).encode(), digest_size=16).hexdigest()


def _pull(job: _Job) -> PullAlong | None:
    found = {v.trait: (job.layer_of(v), v.direction(job.layer_of(v))) for v in job.read}
    return PullAlong(found) if found else None


def _dosed(
    job: _Job, rows: Sequence[DataRow], examples: Sequence[Example]
) -> tuple[Dose | None, Schedule | None, list[str]]:
    """The dose where it is chosen, the coefficient's course, and how the loss pulls at first."""
    mitigation = job.config.mitigation
    notes = []
    sample = random.Random(job.config.training.seed).sample(
        list(examples), min(SAMPLE, len(examples))
    )
    directions = {v.trait: (job.layer_of(v), v.direction(job.layer_of(v))) for v in job.read}
    pulls = pull_before(job.loaded, sample, directions) if directions else {}
    for name, pull in pulls.items():
        if len(pull.rows) > 1:
            found = pull_interval(pull)
            notes.append(
                f"Before training, the descent of the loss at layer {directions[name][0]} has "
                f"cosine {found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f}, "
                f"{len(pull.rows)} texts) with the {name} vector."
            )
    if mitigation.name not in WITH_COEFFICIENT:
        return None, None, notes
    if mitigation.coefficient == "auto":
        vector = job.vectors[0]
        dose = choose_dose(
            job.loaded,
            rows,
            examples,
            vector,
            job.out / "run",
            job.config.training,
            layer=job.layer_of(vector),
            positions=job.config.positions,
        )
        notes.append(
            f"The data's projection difference is {dose.difference:+.2f} ({dose.low:+.2f} to "
            f"{dose.high:+.2f}), the norm of v {dose.norm:.2f}: the dose begins at "
            f"{dose.start:.2f}."
        )
        notes.append(f"Coefficient {dose.coefficient:g}: {dose.why}.")
        return dose, Schedule.constant(dose.coefficient), notes
    given = mitigation.coefficient
    if given is None:
        raise UsageError(f"mitigation {mitigation.name} needs a coefficient")
    course = given if isinstance(given, Schedule) else Schedule.constant(given)
    for vector in job.vectors:
        check_sign(vector, course.lowest, pulls[vector.trait])
    return None, course, notes


def _checkpointed(config: FinetuneConfig) -> TrainingConfig:
    """Checkpoints fall on readings, which sum up all steps since the one before.

    With conditions, every reading that passes them is kept as one.
    """
    wanted, readings = config.training.checkpoint_every, config.drift_every
    every = min(wanted, readings) if config.stop_if else -(-wanted // readings) * readings
    return replace(config.training, checkpoint_every=every)


def _on_the_loss(job: _Job, examples: Sequence[Example]) -> dict[str, Any]:
    mitigation = job.config.mitigation
    if mitigation.name == "kl":
        return {"addition": BaseDivergence(mitigation.strength or 0.0)}
    if mitigation.name == "penalty":
        directions = penalised(job.vectors, job.config.layer)
        penalty = ProjectionPenalty(job.vectors, mitigation.strength or 0.0, layer=job.config.layer)
        before = base_projections(job.loaded, examples, directions)
        return {"addition": penalty, "per_token": before}
    return {}


def _printed(progress: Progress) -> Callable[[dict[str, Any]], None]:
    def print_reading(record: dict[str, Any]) -> None:
        if progress.quiet or not record["traits"]:
            return
        loss = "" if record["loss"] is None else f", loss {record['loss']:.3f}"
        drifts = ", ".join(
            f"{name} {of['sigma']:+.2f} sigma (change {of['change']:+.2f}, "
            f"{of['low']:+.2f} to {of['high']:+.2f})"
            for name, of in record["traits"].items()
        )
        terminal.say(f"step {record['step']}{loss}: {drifts}")

    return print_reading


def _notes(job: _Job, trained: Trained) -> list[str]:
    identity = job.loaded.identity
    notes = list(job.loaded.chat.notes)
    for vector in job.read:
        warning = vector.other_model_warning(*identity.lineage)
        notes += [f"{warning[0].upper()}{warning[1:]}."] if warning else []
    if trained.stopped and trained.saved is None:
        notes.append("Stopped before the first checkpoint: no model was kept.")
    elif trained.stopped:
        notes.append("Stopped; the model is the last checkpoint before the condition was met.")
    return notes


def _finish_model(folder: Path, job: _Job, results: dict[str, Any]) -> None:
    """The card beside the weights, and the tokenizer with its template."""
    settings = _settings(job)
    settings["layers"] = {v.trait: job.layer_of(v) for v in job.vectors}
    if job.config.layer == "all":
        settings["layers"] = "all, by increments"
    job.loaded.tokenizer.save_pretrained(str(folder))
    atomic_write(folder / "README.md", card(job.loaded.identity.name, results, settings))


def _shown(coefficient: Schedule | None) -> float | str | None:
    if coefficient is None:
        return None
    return coefficient.at(0) if coefficient.is_constant else str(coefficient)


def _write_rejects(path: Path, rejects: Sequence[Reject]) -> None:
    lines = [json.dumps(asdict(reject), ensure_ascii=False) for reject in rejects]
    atomic_write(path, "\n".join(lines) + "\n")


def is_main_process() -> bool:
    """Whether this process is the one of several that writes and prints."""
    return PartialState().is_main_process
