"""Replicate the paper on a model: its nine statements, each with a verdict.

1. The stages run in order. Each goes on where a killed run stopped; one that is finished, here or
   among the evidence, is not run again.
2. Every finished stage leaves its typed result, a CSV for each table, and its figures.
3. Nine statements are decided by rules that were fixed before (`statements.py`).
4. The report opens with their table.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from personavec import results as base
from personavec.errors import ModelError, PersonavecError, SettingsMismatchError, StorageError
from personavec.judges import Identity
from personavec.model import ModelIdentity
from personavec.results import read, versions, write
from personavec.runs import Settings, append_records, claim, lock, read_records
from personavec.studies.replicate import evidence as kept
from personavec.studies.replicate.config import StageName
from personavec.studies.replicate.evidence import RESULTS
from personavec.studies.replicate.figures import NOT_DRAWN, can_draw, draw
from personavec.studies.replicate.plots import study_plots
from personavec.studies.replicate.report import write_replication_report
from personavec.studies.replicate.results import ReplicateResults, StageOutcome, StageState
from personavec.studies.replicate.stage import Stage, manifests
from personavec.studies.replicate.stages import STAGES
from personavec.studies.replicate.statements import Found, decide
from personavec.studies.replicate.study import Study

#: Where the time went, a line for each stage and call.
_TIME = "time.jsonl"
#: What identifies a model by content, whatever the machine.
_BY_CONTENT = ("weights", "revision", "template_hash", "n_layers", "hidden_size")


@dataclass(frozen=True)
class Selection:
    """Which stages run, and where their evidence is kept."""

    only: Collection[str] = ()
    """These and those that they need; none: all."""
    skip: Collection[str] = ()
    evidence: Path | None = None

    def wants(self, name: StageName) -> bool:
        wanted = needed(self.only) if self.only else {stage.name for stage in STAGES}
        return name in wanted and name not in self.skip


@dataclass
class _Run:
    """A replication under way."""

    study: Study
    selection: Selection
    manifests: dict[StageName, Settings]
    results: dict[StageName, Any] = field(default_factory=dict)
    outcomes: list[StageOutcome] = field(default_factory=list)

    def folder(self, stage: Stage[Any]) -> Path:
        return self.study.folder(stage.name)

    def is_done(self, stage: Stage[Any]) -> bool:
        return kept.fits(self.folder(stage), self.manifests[stage.name])

    def is_kept(self, stage: Stage[Any]) -> bool:
        folder = self.selection.evidence
        return folder is not None and kept.fits(folder / stage.name, self.manifests[stage.name])


def needed(names: Collection[str]) -> set[str]:
    """The stages of these names, and all that they need."""
    found = set(names)
    for stage in reversed(STAGES):
        if stage.name in found:
            found |= set(stage.needs)
    return found


def run(study: Study, selection: Selection | None = None) -> ReplicateResults:
    """Run the stages, decide the statements, write the report; returns the results.

    Writes a folder for each stage, `results.json` and `report.html` into the study's folder. A
    stage that cannot be run is said, and so are those that need it. Raises SettingsMismatchError
    where a stage's folder was begun with other settings, and StorageError.
    """
    started = time.monotonic()
    with lock(study.out):
        going = _Run(
            study, selection or Selection(), manifests(STAGES, study.inputs, _shared(study))
        )
        for stage in STAGES:
            going.outcomes.append(_stage(going, stage))
        found = _results(going, round(time.monotonic() - started, 1))
        write(study.out / RESULTS, found)
        write_replication_report(found, going.results, study.out / "report.html")
    return found


def _shared(study: Study) -> Settings:
    """What all stages depend on."""
    judge = study.judge_of_tuned.identity()
    return {"model": _by_content(study.loaded.identity), "judge": _judge(judge)}


def _by_content(model: ModelIdentity | Settings) -> Settings:
    found = model.as_dict() if isinstance(model, ModelIdentity) else model
    return {name: found.get(name) for name in _BY_CONTENT}


def _judge(identity: Identity) -> Settings:
    model = identity.get("model")
    return {**identity, **({"model": _by_content(model)} if isinstance(model, dict) else {})}


def _stage(going: _Run, stage: Stage[Any]) -> StageOutcome:
    """One stage: found finished, taken from the evidence, run, or not run."""
    started = time.monotonic()
    folder = going.folder(stage)
    why, state = None, "finished"
    if going.is_done(stage):
        going.results[stage.name] = read(stage.result, folder / RESULTS)
    elif _from_evidence(going, stage):
        going.results[stage.name] = read(stage.result, folder / RESULTS)
        state = "from evidence"
    elif why := _why_not(going, stage):
        state = "not run"
    else:
        why = _run(going, stage, folder)
        state = "not run" if why else "finished"
        seconds = round(time.monotonic() - started, 1)
        append_records(going.study.out / _TIME, [{"stage": stage.name, "seconds": seconds}])
    if why is None:
        own = [plot for plot in study_plots(going.results) if plot.stage == stage.name]
        draw(own, going.study.out)
    if why is None and going.selection.evidence is not None:
        kept.keep(stage, folder, going.selection.evidence, going.study.loaded.identity.name)
    return _outcome(going, stage, state, why)


def _outcome(going: _Run, stage: Stage[Any], state: StageState, why: str | None) -> StageOutcome:
    spent = read_records(going.study.out / _TIME)
    shown = f"{stage.title}: {state}" + (f" ({why})" if why else "")
    going.study.progress.say(shown)
    return StageOutcome(
        name=stage.name,
        title=stage.title,
        state=state,
        why=why,
        seconds=sum(own["seconds"] for own in spent if own["stage"] == stage.name),
        forwards=stage.plan(going.study.inputs).forwards,
    )


def _from_evidence(going: _Run, stage: Stage[Any]) -> bool:
    """Take a finished stage from the evidence, unless a later one needs what is not kept of it."""
    evidence = going.selection.evidence
    if evidence is None or not going.is_kept(stage):
        return False
    later = [other for other in STAGES if stage.name in other.needs]
    finished = all(going.is_kept(s) or going.is_done(s) for s in later)
    if not finished and not kept.holds_files(stage, evidence):
        return False
    # Refuses a folder that was begun with other settings.
    claim(going.folder(stage), going.manifests[stage.name])
    kept.restore(stage, evidence, going.folder(stage))
    return True


def _why_not(going: _Run, stage: Stage[Any]) -> str | None:
    """Why a stage is not run."""
    if not going.selection.wants(stage.name):
        return "it was left out"
    if missing := stage.missing(going.study.inputs):
        return missing
    lacking = [name for name in stage.needs if name not in going.results]
    if not lacking:
        return None
    titles = {other.name: other.title for other in STAGES}
    return f"it needs the stage {titles[lacking[0]]}"


def _run(going: _Run, stage: Stage[Any], folder: Path) -> str | None:
    """Run a stage and write what it found; why it could not be finished, if it could not."""
    claim(folder, going.manifests[stage.name])
    try:
        result = stage.run(going.study)
    except (StorageError, SettingsMismatchError, ModelError):
        raise
    except PersonavecError as error:
        return str(error)
    kept.write_tables(folder, result)
    base.write(folder / RESULTS, result)
    # As a later call reads it: a whole number is a float again, in the figures' tables too.
    going.results[stage.name] = read(stage.result, folder / RESULTS)
    return None


def _results(going: _Run, seconds: float) -> ReplicateResults:
    study = going.study
    return ReplicateResults(
        model=study.loaded.identity,
        judge=study.judge_of_tuned.identity(),
        statements=decide(Found.of(going.results)),
        stages=tuple(going.outcomes),
        not_done=tuple(_not_done(going)),
        settings=study.config,
        versions=versions(),
        out=study.out,
        seconds=seconds,
    )


def _not_done(going: _Run) -> Sequence[str]:
    """Stages that were not run, and what the others left out."""
    found = [f"{own.title}: {own.why}" for own in going.outcomes if own.why]
    found += [] if can_draw() else [NOT_DRAWN]
    titles = {stage.name: stage.title for stage in STAGES}
    for name, result in going.results.items():
        left_out = getattr(result, "left_out", ())
        found += [f"{titles[name]}, {left.what}: {left.why}" for left in left_out]
    return found
