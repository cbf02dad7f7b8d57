"""Measure what a finetune did to a model's traits.

1. Base, tuned model and control answer the evaluation questions; their activations at the last
   prompt token are kept.
2. One judge scores all answers.
3. A trait's shift is the change of those activations between base and tuned model, averaged over
   questions and projected onto the persona vector (paper, section 5.2). Any finetuning moves a
   model, so the shift of a benign control can be subtracted, and random directions show how far
   the model moved in general.
4. Conditions on the figures make a gate for a release.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from personavec import results as base_results
from personavec.conditions import Condition
from personavec.errors import DataError, UsageError
from personavec.evaluate.shift.config import ShiftConfig
from personavec.evaluate.shift.figures import trait_shift, transcripts
from personavec.evaluate.shift.gate import check_conditions, condition_met, unmeasured
from personavec.evaluate.shift.measure import (
    estimate,
    judge_answers,
    layer_of,
    measure,
    questions_of,
)
from personavec.evaluate.shift.report import write_shift_report
from personavec.evaluate.shift.results import ShiftResults
from personavec.judges import ContrastJudge, Judge, chat_formats, judge_notes, spec_notes
from personavec.model import LoadedModel, check_tuned, weights_of
from personavec.progress import Progress
from personavec.results import versions
from personavec.runs import Settings, claim, lock
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector, other_model_notes


def run(
    base: LoadedModel,
    tuned: str,
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    out: Path,
    config: ShiftConfig | None = None,
    *,
    control: str | None = None,
    fail_if: Sequence[Condition] = (),
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> ShiftResults:
    """Shift and expression for every vector; `specs` has its trait's spec in the same order.

    `tuned` and `control` are names of models; an adapter of `base` is applied to it, not loaded
    with a base of its own. By default the base judges by contrast. Writes `results.json`,
    `report.html` and `rollouts/` into `out`; a killed run continues with the same arguments.

    Raises UsageError for a condition in a unit that the judge does not give, VectorMismatchError,
    ModelError for a model that cannot be loaded or is of another shape, SettingsMismatchError when
    `out` was begun with other settings.
    """
    config = config or ShiftConfig()
    progress = progress or Progress()
    _check(base, vectors, specs, config)
    judge = judge or ContrastJudge(base)
    check_conditions(fail_if, [v.trait for v in vectors], judge.name)
    names = {"base": None, "tuned": tuned, **({"control": control} if control else {})}
    for name in filter(None, names.values()):
        check_tuned(name)
    started = time.monotonic()
    with lock(out):
        claim(out, _settings(base, names, vectors, specs, config, judge))
        progress.stages(*(f"{arm}: shift and answers" for arm in names), "judging", "figures")
        estimate(base, specs, judge, out / "run" / "base", len(names), config, progress)
        models = {
            arm: measure(base, name, vectors, specs, out / "run" / arm, config, progress)
            for arm, name in names.items()
        }
        models = judge_answers(models, specs, judge, out, progress)
        traits = {v.trait: trait_shift(models, v, config, judge) for v in vectors}
        found = ShiftResults(
            base=base.identity,
            tuned=tuned,
            control=control,
            judge=judge.identity(),
            traits=traits,
            met=tuple(met for each in fail_if if (met := condition_met(each, traits))),
            unmeasured=tuple(why for each in fail_if if (why := unmeasured(each, traits))),
            conditions=tuple(map(str, fail_if)),
            notes=_notes(base, vectors, specs, config, judge),
            settings=config,
            versions=versions(),
            transcripts={v.trait: transcripts(models, v.trait) for v in vectors},
            seconds=round(time.monotonic() - started, 1),
        )
        base_results.write(out / "results.json", found)
        write_shift_report(found, out / "report.html")
    return found


def _check(
    base: LoadedModel,
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    config: ShiftConfig,
) -> None:
    """Refuse what would fail later, before any model runs."""
    if not vectors or [v.trait for v in vectors] != [s.name for s in specs]:
        raise UsageError("a shift needs vectors, and each one's trait spec in the same order")
    if len({s.name for s in specs}) < len(specs):
        raise UsageError("two of the vectors are of the same trait; give each trait once")
    for vector in vectors:
        vector.check_fits(base.identity.n_layers, base.identity.hidden_size)
        if not vector.neutral_prompt_last[layer_of(vector, config), 1] > 0:
            raise DataError(
                f"vector '{vector.trait}' has no spread over neutral prompts, so no shift can be "
                "standardised by it; extract it again with more neutral prompts"
            )


def _settings(
    base: LoadedModel,
    names: Mapping[str, str | None],
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    config: ShiftConfig,
    judge: Judge,
) -> Settings:
    """What a continued run must share. Conditions may change: they read what was measured."""
    return {
        "command": "shift",
        "base": base.identity.as_dict(),
        "models": {
            arm: {"name": name, "weights": weights_of(name)} for arm, name in names.items() if name
        },
        "vectors": {v.trait: v.identity for v in vectors},
        "layers": {v.trait: layer_of(v, config) for v in vectors},
        "specs": {spec.name: spec.hash for spec in specs},
        "judge": judge.identity(),
        "config": asdict(config),
    }


def _notes(
    base: LoadedModel,
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    config: ShiftConfig,
    judge: Judge,
) -> tuple[str, ...]:
    notes = [*base.chat.notes, *other_model_notes(vectors, base.identity.lineage)]
    if min(len(questions_of(spec, config)) for spec in specs) < 10:
        notes.append("Intervals from fewer than ten questions are too narrow.")
    return (
        *dict.fromkeys(notes),
        *judge_notes(judge),
        *spec_notes(specs, chat_formats(judge, base)),
    )
