"""Finetune a model on rows of data, with a mitigation, and read its traits as it trains.

The paper's section 5: finetuning moves traits, and steering toward the vector in training prevents
it. The steps of `run`, as docs/finetune.md numbers them:

1. apply a mitigation of the rows: inoculate them, drop flagged ones, interleave benign ones;
2. encode the rows, with a loss on the assistant's turns;
3. measure how the loss pulls along the vectors, and choose or check the coefficient;
4. prepare what acts in training: preventative steering, ablation, or a term of the loss;
5. train, read the probes every so many steps, and stop where a condition is met;
6. save the model with its card, and the results.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from accelerate import PartialState

from personavec import terminal
from personavec.data import DataRow, Reject
from personavec.errors import DataError, UsageError
from personavec.finetune.cards import card
from personavec.finetune.config import WITH_COEFFICIENT, FinetuneConfig, TrainingConfig
from personavec.finetune.dose import SAMPLE, check_sign, choose_dose
from personavec.finetune.job import FinetuneJob
from personavec.finetune.loss_terms import (
    BaseDivergence,
    ProjectionPenalty,
    base_projections,
    penalised,
)
from personavec.finetune.mitigations import mitigated_rows
from personavec.finetune.preventative import Ablation, PreventativeSteering, randomly_rotated
from personavec.finetune.probes import DriftLog, DriftReading, Probes, read_log
from personavec.finetune.pull import LossPull, Pull, pull_before, pull_interval
from personavec.finetune.results import FinetuneResults, PreventativeDose
from personavec.finetune.rows import TrainingRows
from personavec.finetune.schedule import Schedule
from personavec.finetune.setup import Trained, TrainingSetup
from personavec.finetune.texts import TrainingText, encode_rows, reading_of
from personavec.finetune.training import train
from personavec.model import LoadedModel, hash_of_files
from personavec.progress import Progress
from personavec.results import Estimate, read, versions, write
from personavec.runs import atomic_write, claim, lock, read_records
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector, other_model_notes
from personavec.wording import decimal, estimated

RESULTS = "results.json"


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
) -> FinetuneResults:
    """Finetune; returns the results and writes them to `results.json`.

    `vectors` are what the mitigation works with. The drift of these and of `watch` is read every
    `drift_every` steps. `spec` is needed for inoculation: its first positive instruction is the
    system prompt. Writes into `out`: `model/` (the adapter, or the model with `full`; `load_model`
    loads it), `drift.jsonl`, `rejects.jsonl`, `results.json`, `run/checkpoint-N`. A killed run
    continues when it is called again with the same arguments; a finished one returns its results.
    Afterwards the loaded model is the base again.

    Raises UsageError for a mitigation that lacks its vector or pulls the wrong way,
    VectorMismatchError, DataError for no usable rows, ActivationError for a loss that is not
    finite, SettingsMismatchError for an `out` begun with other settings.
    """
    config, progress = config or FinetuneConfig(), progress or Progress()
    job = FinetuneJob(loaded, data, out, config, tuple(vectors), tuple(watch), spec, progress)
    job.check()
    with _claimed(job):
        return _finished(job) if (out / RESULTS).exists() else _finetune(job)


def _finetune(job: FinetuneJob) -> FinetuneResults:
    started = time.monotonic()
    _say_stages(job)
    rows, row_notes = _mitigated_rows(job)
    texts, rejects = encode_rows(job.loaded, rows, job.config.training)
    reading = reading_of(job.data, texts, rejects).record()
    _keep_rejects(job, texts, [*job.data.rejects, *rejects])

    pulls = _pulls(job, texts)
    dose, coefficient = _coefficient(job, rows, texts, pulls)

    drift = _drift_log(job)
    setup = replace(
        _loss_term(job, texts),
        steering=_steering(job, coefficient),
        drift=drift,
        pull=drift.pull,
        progress=job.progress if is_main_process() else Progress(quiet=True),
        label="finetuning",
    )
    checkpointed = _checkpointed(job.config)
    trained = train(
        job.loaded, texts, job.out / "run", checkpointed, setup=setup, save_to=job.out / "model"
    )
    results = FinetuneResults(
        model=trained.saved,
        weights=None,
        mitigation=job.config.mitigation.name,
        coefficient=_shown(coefficient),
        strength=job.config.mitigation.strength,
        dose=dose,
        steps=trained.steps,
        loss=trained.loss,
        losses=trained.losses,
        drift=job.out / "drift.jsonl",
        stopped=str(drift.stopped) if drift.stopped else None,
        rows=len({text.row for text in texts}),
        rejected=len(job.data.rejects) + len(rejects),
        data={job.data.name: reading},
        seconds=round(time.monotonic() - started, 1),
        notes=(*row_notes, *_pull_notes(job, pulls), *_dose_notes(dose), *_notes(job, trained)),
        base=job.loaded.identity,
        versions=versions(),
    )
    return _saved(job, results)


def _say_stages(job: FinetuneJob) -> None:
    mitigation = job.config.mitigation
    if is_main_process():
        job.progress.stages(
            "benign rows" if mitigation.name == "interleave" else "",
            "pull of the data" if job.directions else "",
            "trials of the dose" if mitigation.coefficient == "auto" else "",
            "finetuning",
        )


def is_main_process() -> bool:
    """Whether this process is the one of several that writes and prints."""
    return PartialState().is_main_process


# The folder, and several processes


@contextmanager
def _claimed(job: FinetuneJob) -> Iterator[None]:
    """The folder, locked by the main process and tied to the job's settings."""
    processes = PartialState(cpu=job.loaded.device.type == "cpu")
    with lock(job.out) if processes.is_main_process else nullcontext():
        if processes.is_main_process:
            claim(job.out, job.settings())
        processes.wait_for_everyone()
        yield


def _finished(job: FinetuneJob) -> FinetuneResults:
    """The results of a finished run. Raises DataError where a file of it is lost or damaged."""
    out, path = job.out, job.out / RESULTS
    found = read(FinetuneResults, path, "delete it to train the last steps again")
    anew = f"delete {path} to train the last steps again"
    if found.model and found.weights != hash_of_files(out / "model"):
        raise DataError(f"{out / 'model'} is not what was trained: a file is lost or other; {anew}")
    read_log(out / "drift.jsonl", job.config.drift_every, found.steps, anew)
    if found.rejected and not read_records(out / "rejects.jsonl"):
        raise DataError(f"{out / 'rejects.jsonl'} is lost; {anew}")
    return found


def _saved(job: FinetuneJob, results: FinetuneResults) -> FinetuneResults:
    """Write the card, the tokenizer and the results; the results with the hash of the weights."""
    if is_main_process() and results.model is not None:
        job.loaded.tokenizer.save_pretrained(str(results.model))
        settings = {**job.settings(), "layers": {v.trait: job.layer_of(v) for v in job.vectors}}
        if job.config.layer == "all":
            settings["layers"] = "all, by increments"
        text = card(job.loaded.identity.name, results, settings)
        atomic_write(results.model / "README.md", text)
        results = replace(results, weights=hash_of_files(results.model))
    if is_main_process():
        write(job.out / RESULTS, results)
    PartialState().wait_for_everyone()
    return results


# Rows and texts


def _mitigated_rows(job: FinetuneJob) -> tuple[tuple[DataRow, ...], tuple[str, ...]]:
    """The rows to train on, and notes. The main process generates; the others read its files."""
    with PartialState().main_process_first():
        found = mitigated_rows(
            job.config.mitigation,
            job.data,
            job.loaded,
            job.out / "run" / "rows",
            spec=job.spec,
            seed=job.config.training.seed,
            progress=job.progress,
        )
    return found.rows, found.notes


def _keep_rejects(
    job: FinetuneJob, texts: Sequence[TrainingText], rejects: Sequence[Reject]
) -> None:
    if not texts:
        raise DataError(f"no row is left to train on; the first: {rejects[0].reason}")
    if is_main_process() and rejects:
        lines = [json.dumps(asdict(reject), ensure_ascii=False) for reject in rejects]
        atomic_write(job.out / "rejects.jsonl", "\n".join(lines) + "\n")


# The pull of the loss, and the coefficient


def _pulls(job: FinetuneJob, texts: Sequence[TrainingText]) -> dict[str, Pull]:
    """How the loss of a sample of texts pulls along each vector, before training."""
    directions = job.directions
    if not directions:
        return {}
    rng = random.Random(job.config.training.seed)
    sample = rng.sample(list(texts), min(SAMPLE, len(texts)))
    return pull_before(job.loaded, sample, directions)


def _coefficient(
    job: FinetuneJob,
    rows: Sequence[DataRow],
    texts: Sequence[TrainingText],
    pulls: dict[str, Pull],
) -> tuple[PreventativeDose | None, Schedule | None]:
    """The dose if it is chosen from the data, and the coefficient over the run."""
    mitigation = job.config.mitigation
    if mitigation.name not in WITH_COEFFICIENT:
        return None, None
    if mitigation.coefficient == "auto":
        dose = choose_dose(job, rows, texts)
        return dose, Schedule.constant(dose.coefficient)
    given = mitigation.coefficient
    if given is None:
        raise UsageError(f"mitigation {mitigation.name} needs a coefficient")
    schedule = given if isinstance(given, Schedule) else Schedule.constant(given)
    for vector in job.vectors:
        check_sign(vector, schedule.lowest, pulls[vector.trait])
    return None, schedule


# What acts in training


def _steering(
    job: FinetuneJob, coefficient: Schedule | None
) -> tuple[PreventativeSteering | Ablation, ...]:
    """What changes the residual stream in training: nothing under most mitigations.

    Preventative steering hooks in here: `PreventativeSteering` is a callback of the trainer, which
    attaches it when training begins (see `preventative`, and `hooks` for where it acts).
    """
    model, vectors, config = job.loaded.model, job.vectors, job.config
    match config.mitigation.name:
        case "preventative":
            steered = vectors
        case "random":
            seed = config.training.seed
            steered = [randomly_rotated(v, seed=seed + i) for i, v in enumerate(vectors)]
        case "caft":
            return (Ablation(model, vectors, config.layer, positions=config.positions),)
        case _:
            return ()
    assert coefficient is not None
    return (
        PreventativeSteering(model, steered, coefficient, config.layer, positions=config.positions),
    )


def _loss_term(job: FinetuneJob, texts: Sequence[TrainingText]) -> TrainingSetup:
    """A setup with what the mitigation adds to the loss: nothing under most mitigations."""
    mitigation, layer = job.config.mitigation, job.config.layer
    weight = mitigation.strength or 0.0
    if mitigation.name == "kl":
        return TrainingSetup(loss_term=BaseDivergence(weight))
    if mitigation.name == "penalty":
        penalty = ProjectionPenalty(job.vectors, weight, layer=layer)
        before = base_projections(job.loaded, texts, penalised(job.vectors, layer))
        return TrainingSetup(loss_term=penalty, per_token=before)
    return TrainingSetup()


def _drift_log(job: FinetuneJob) -> DriftLog:
    config, directions = job.config, job.directions
    return DriftLog(
        Probes(job.loaded, job.read, layer=config.layer),
        job.out / "drift.jsonl",
        every=config.drift_every,
        conditions=config.stop_if,
        pull=LossPull(directions) if directions else None,
        on_reading=_printer(job.progress) if is_main_process() else None,
    )


def _checkpointed(config: FinetuneConfig) -> TrainingConfig:
    """The settings with checkpoints at drift readings, which cover all steps since the last one.

    With conditions, every reading that meets none is kept as a checkpoint.
    """
    wanted, readings = config.training.checkpoint_every, config.drift_every
    every = min(wanted, readings) if config.stop_if else -(-wanted // readings) * readings
    return replace(config.training, checkpoint_every=every)


# What is said of it


def _printer(progress: Progress) -> Callable[[DriftReading], None]:
    def print_reading(reading: DriftReading) -> None:
        if progress.quiet or not reading.traits:
            return
        loss = "" if reading.loss is None else f", loss {reading.loss:.3f}"
        drifts = ", ".join(
            f"{name} {decimal(of.sigma, '+.2f')} sigma (change "
            f"{estimated(Estimate(of.change, of.low, of.high), '+.2f')})"
            for name, of in reading.traits.items()
        )
        terminal.log(f"step {reading.step}{loss}: {drifts}")

    return print_reading


def _pull_notes(job: FinetuneJob, pulls: dict[str, Pull]) -> list[str]:
    notes = []
    for name, pull in pulls.items():
        if len(pull.rows) > 1:
            found = pull_interval(pull)
            notes.append(
                f"Before training, the descent of the loss at layer {job.directions[name][0]} has "
                f"cosine {estimated(Estimate.of(found), '+.3f')}, by {len(pull.rows)} texts, "
                f"with the {name} vector."
            )
    return notes


def _dose_notes(dose: PreventativeDose | None) -> list[str]:
    if dose is None:
        return []
    difference = estimated(Estimate(dose.difference, dose.low, dose.high), "+.2f")
    return [
        f"The data's projection difference is {difference}, the norm of v {dose.norm:.2f}: the "
        f"dose begins at {dose.start:.2f}.",
        f"Coefficient {dose.coefficient:g}: {dose.why}.",
    ]


def _notes(job: FinetuneJob, trained: Trained) -> list[str]:
    notes = [*job.loaded.chat.notes, *other_model_notes(job.read, job.loaded.identity.lineage)]
    if trained.stopped and trained.saved is None:
        notes.append("Stopped before the first checkpoint: no model was kept.")
    elif trained.stopped:
        notes.append("Stopped; the model is the last checkpoint before the condition was met.")
    return notes


def _shown(coefficient: Schedule | None) -> float | str | None:
    if coefficient is None:
        return None
    return coefficient.at(0) if coefficient.is_constant else str(coefficient)
