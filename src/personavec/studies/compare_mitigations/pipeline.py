"""Which mitigation keeps a trait down, and at what cost: a grid of finetunes on the same rows.

For every seed the rows are finetuned on once for each mitigation and coefficient; the plain
finetune is also steered against the trait at inference. Every cell answers the same held-out
questions, plainly and under the training data's own cues, loses what it loses of capability, and
shows what it learnt of the task by its loss on held-out rows (paper, section 5).
"""

from __future__ import annotations

import random
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from personavec.data import ReadingCounts
from personavec.errors import RefusedError, UsageError
from personavec.evaluate import capability, cues_of
from personavec.finetune import (
    WITH_VECTOR,
    FinetuneConfig,
    FinetuneResults,
    TrainingRows,
    encode_rows,
    reading_of,
    run as finetune,
)
from personavec.judges import ContrastJudge, Judge, chat_formats, judge_notes, spec_notes
from personavec.model import LoadedModel, Steering, tuned_model, vector_steering
from personavec.model.engine import Sampling
from personavec.progress import Progress
from personavec.results import Dump, dump, versions, write
from personavec.runs import Settings, claim, lock
from personavec.studies import (
    Bench,
    Measured,
    answer_tasks,
    is_measured,
    judge_cells,
    measure,
    split_rows,
)
from personavec.studies.compare_mitigations.config import BASE, PLAIN, Arm, CompareConfig
from personavec.studies.compare_mitigations.figures import arm_figures, arm_transcripts
from personavec.studies.compare_mitigations.report import write_mitigations_report
from personavec.studies.compare_mitigations.results import (
    ArmResults,
    ComparedRows,
    CompareResults,
)
from personavec.traits import TraitSpec, neutral_prompts
from personavec.vectors import PersonaVector, other_model_notes
from personavec.wording import duration, plural


@dataclass(frozen=True, eq=False)
class CompareJob:
    """What all cells need."""

    bench: Bench
    vector: PersonaVector
    spec: TraitSpec
    train: TrainingRows
    reading: ReadingCounts
    """How the data and the held-out rows were read; each finetune says it of its own rows."""
    config: CompareConfig
    out: Path
    parts: tuple[str, ...] = ()
    """Which part of the data each held-out text is of, where a column says so."""
    finetunes: dict[str, FinetuneResults] = field(default_factory=dict)
    """Results of each finetune, by cell."""
    refused: list[str] = field(default_factory=list)
    """Cells whose finetune was refused, and why."""


def run(
    loaded: LoadedModel,
    data: TrainingRows,
    vector: PersonaVector,
    spec: TraitSpec,
    out: Path,
    config: CompareConfig | None = None,
    *,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> CompareResults:
    """Train and measure the whole grid; returns the results that the report draws.

    Writes `results.json`, `report.html` and a folder for each cell into `out`; a killed run
    continues with the cell it was in. The base judges by contrast unless a judge is given.

    Raises DataError for data that cannot be divided, VectorMismatchError, UsageError, and whatever
    a finetune raises.
    """
    config = config or CompareConfig()
    progress = progress or Progress()
    vector.check_fits(loaded.identity.n_layers, loaded.identity.hidden_size)
    if vector.trait != spec.name:
        raise UsageError(f"the vector is of {vector.trait}, the spec of {spec.name}")
    if any(arm.mitigation == "drop-flagged" for arm in config.arms) and not data.flagged:
        raise UsageError("drop-flagged needs rows that a screen flagged (--flags)")
    judge = judge or ContrastJudge(loaded)
    started = time.monotonic()
    with lock(out):
        claim(out, _settings(loaded, data, vector, spec, config, judge))
        job = _job(loaded, data, vector, spec, out, config, progress)
        cells = judge_cells(_cells(job), [spec], judge, out / "run" / "judged", progress)
        seconds = round(time.monotonic() - started, 1)
        results = _results(job, cells, data, spec, judge, out, seconds)
        write(out / "results.json", results)
        write_mitigations_report(results, out / "report.html")
    return results


def _results(
    job: CompareJob,
    cells: dict[str, Measured],
    data: TrainingRows,
    spec: TraitSpec,
    judge: Judge,
    out: Path,
    seconds: float,
) -> CompareResults:
    base = job.bench.base
    by_arm = _by_arm(job, cells)
    return CompareResults(
        trait={"name": spec.name, "description": spec.description},
        model=base.identity,
        judge=judge.identity(),
        layer=job.vector.layer if job.config.layer is None else job.config.layer,
        rows=ComparedRows(
            trained_on=len(job.train.rows),
            held_out=len(job.bench.held_out),
            rejected=len(data.rejects),
            source=data.source,
        ),
        data={data.name: job.reading.record()},
        seeds=job.config.seeds,
        questions=tuple(job.bench.questions[spec.name]),
        arms=_arms(job, by_arm),
        transcripts=arm_transcripts(by_arm, job.vector.trait),
        notes=(
            *_notes(job, judge),
            *judge_notes(judge),
            *spec_notes([spec], chat_formats(judge, base)),
        ),
        settings=_shown(job.config),
        versions=versions(),
        out=out,
        seconds=seconds,
    )


def _job(
    loaded: LoadedModel,
    data: TrainingRows,
    vector: PersonaVector,
    spec: TraitSpec,
    out: Path,
    config: CompareConfig,
    progress: Progress,
) -> CompareJob:
    trained_on, held = split_rows(data.rows, config.held_out, config.seed)
    examples, rejects = encode_rows(loaded, held, config.training)
    questions = spec.questions.evaluation[-(config.questions or 0) :]
    cues = cues_of(data.rows) if config.cues else ()
    bench = Bench(
        base=loaded,
        vectors=(vector,),
        questions={spec.name: questions},
        tasks=tuple(
            answer_tasks(
                spec,
                questions,
                config.samples,
                cues=random.Random(config.seed).sample(cues, len(cues)),
                fits=loaded,
                new_tokens=config.max_tokens,
            )
        ),
        sampling=Sampling(config.max_tokens, config.temperature, seed=config.seed),
        held_out=tuple(examples),
        texts=tuple(neutral_prompts()[: config.texts]),
        capability=capability.load_tasks([config.task])[0] if config.capability else None,
        capability_items=config.capability_items,
        batch_tokens=config.batch_tokens,
        progress=progress,
    )
    split = {"held_out": config.held_out, "seed": config.seed}
    train = replace(data, rows=trained_on, source={**data.source, **split})
    parts = tuple(data.parts[example.row] for example in examples) if data.parts else ()
    # The finetunes encode their rows themselves; here only what that has to tell.
    trained = encode_rows(loaded, trained_on, config.training)
    reading = reading_of(data, [*examples, *trained[0]], [*rejects, *trained[1]])
    return CompareJob(bench, vector, spec, train, reading, config, out, parts)


# The grid


def _cells(job: CompareJob) -> dict[str, Measured]:
    """Every cell by name, measured; the base first, then seed by seed."""
    bench, config = job.bench, job.config
    runs = len(config.seeds) * len(config.trained)
    measured = 1 + len(config.seeds) * (len(config.trained) + len(config.steered))
    bench.progress.stages(
        plural(runs, "finetune"), plural(measured, "measurement"), "judging", "report"
    )
    cells = {_cell(BASE, None): measure(bench, bench.base, _folder(job, BASE, None))}
    begun = time.monotonic()
    for number, (seed, arm) in enumerate(product(config.seeds, config.trained)):
        if number == 1 and (spent := time.monotonic() - begun) > 5:
            left = duration(spent * (runs - 1))
            bench.progress.say(f"about {left} for the other finetunes, by the first")
        try:
            model = _finetuned(job, arm, seed)
        except RefusedError as error:
            job.refused.append(f"{_cell(arm, seed)} was refused, and is left out: {error}.")
            continue
        wanted = [arm, *(config.steered if arm == PLAIN else ())]
        folders = {each: _folder(job, each, seed) for each in wanted}
        if all(is_measured(folder, bench) for folder in folders.values()):
            # Reads what is there; no model is touched.
            for each, folder in folders.items():
                cells[_cell(each, seed)] = measure(bench, bench.base, folder)
            continue
        with tuned_model(bench.base, model) as tuned:
            for each, folder in folders.items():
                steering = _steering(job, each)
                cells[_cell(each, seed)] = measure(bench, tuned, folder, steering=steering)
    return cells


def _steering(job: CompareJob, arm: Arm) -> tuple[Steering, ...]:
    """What steers an arm's answers."""
    if arm.mitigation == "steering" and isinstance(arm.amount, float):
        return vector_steering(job.vector, arm.amount, job.config.layer)
    return ()


def _finetuned(job: CompareJob, arm: Arm, seed: int) -> str:
    """The folder of the finetuned model, trained if it is not there yet."""
    config = job.config
    mitigation = arm.as_mitigation()
    found = finetune(
        job.bench.base,
        job.train,
        _folder(job, arm, seed) / "finetune",
        FinetuneConfig(
            training=replace(config.training, seed=seed),
            mitigation=mitigation,
            layer=config.layer,
            positions=config.positions,
            drift_every=10**9,  # what is read here is read at the end
        ),
        vectors=[job.vector] if mitigation.name in WITH_VECTOR else [],
        spec=job.spec,
        progress=job.bench.progress,
    )
    job.finetunes[_cell(arm, seed)] = found
    return str(found.model)


def _cell(arm: Arm, seed: int | None) -> str:
    return arm.name if seed is None else f"{arm.name}, seed {seed}"


def _arm_of(cell: str) -> str:
    return cell.partition(", seed ")[0]


def _folder(job: CompareJob, arm: Arm, seed: int | None) -> Path:
    name = arm.name.replace(" ", "_")
    return job.out / "cells" / (name if seed is None else f"{name}-seed{seed}")


def _by_arm(job: CompareJob, cells: dict[str, Measured]) -> dict[str, list[Measured]]:
    """The cells of every arm that has any, one for each seed."""
    found = {
        arm.name: [cell for name, cell in cells.items() if _arm_of(name) == arm.name]
        for arm in job.config.all_arms
    }
    return {name: own for name, own in found.items() if own}


def _arms(job: CompareJob, by_arm: dict[str, list[Measured]]) -> dict[str, ArmResults]:
    seed = job.config.seed
    return {
        arm.name: ArmResults(
            **vars(arm_figures(arm.name, by_arm, job.vector, job.parts, seed)), **_used(job, arm)
        )
        for arm in job.config.all_arms
        if arm.name in by_arm
    }


def _used(job: CompareJob, arm: Arm) -> dict[str, Any]:
    """What an arm is, and what its finetunes used and came to, by seed."""
    cells = [_cell(arm, seed) for seed in job.config.seeds]
    found = [job.finetunes[cell] for cell in cells if cell in job.finetunes]
    return {
        "mitigation": arm.mitigation,
        "amount": arm.amount,
        "coefficients": tuple(each.coefficient for each in found),
        "training_loss": tuple(each.loss for each in found),
        "training_seconds": tuple(each.seconds for each in found),
        "dose": found[0].dose if found else None,
    }


def _settings(
    loaded: LoadedModel,
    data: TrainingRows,
    vector: PersonaVector,
    spec: TraitSpec,
    config: CompareConfig,
    judge: Judge,
) -> Settings:
    """What a continued run must share. Arms and seeds may be added: cells stand by themselves."""
    shown = _shown(config)
    del shown["arms"], shown["seeds"]
    return {
        "command": "compare-mitigations",
        "model": loaded.identity.as_dict(),
        "data": data.source,
        "vector": vector.identity,
        "spec": spec.hash,
        "judge": judge.identity(),
        "config": shown,
    }


def _shown(config: CompareConfig) -> Settings:
    found = {**asdict(config), "arms": [arm.name for arm in config.arms]}
    if config.task == capability.PACKAGED:
        del found["task"]  # Folders of before there was a choice stay valid.
    return found


def _notes(job: CompareJob, judge: Judge) -> list[str]:
    base = job.bench.base
    notes = [*base.chat.notes, *job.refused]
    notes += other_model_notes([job.vector], base.identity.lineage)
    if len(job.bench.questions[job.vector.trait]) < 10:
        notes.append("Intervals from fewer than ten questions are too narrow.")
    notes.append(
        "Intervals are bootstrapped over questions, items or rows, all seeds together; what the "
        "seed of training changes is listed seed by seed."
    )
    if job.config.steered:
        notes.append(
            "Inference-time steering acts at every position of given texts (capability, "
            "perplexity, held-out loss), which is the harder test."
        )
    if isinstance(judge, ContrastJudge) and judge.loaded is base:
        notes.append("The model before finetuning judged all answers, by contrast.")
    return notes


def summary(results: CompareResults) -> Dump:
    """What `compare-mitigations --json` prints: all but the transcripts, and the report's path."""
    found = {key: value for key, value in dump(results).items() if key != "transcripts"}
    return {**found, "report": str(results.out / "report.html")}
