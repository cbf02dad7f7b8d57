"""Calibrate a vector: forecast from the prompt how strongly the answer will show the trait.

This is the paper's test of monitoring (section 3.3). Answers are collected with eight system
prompts, from suppressing to encouraging, and after 0 to 20 examples that show the trait. The
projection of the last prompt token is compared with the judged expression of the answer. The
forecast is fitted on extraction questions and tested on evaluation questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from personavec.errors import UsageError
from personavec.judges import ContrastJudge, Judge, chat_formats, judge_notes, spec_notes
from personavec.model import Directions, LoadedModel, project_tokens
from personavec.model.engine import Sampling
from personavec.monitor.calibration_tasks import (
    best_examples,
    example_tasks,
    expected,
    neutral_tasks,
    tasks_of_conditions,
)
from personavec.monitor.config import CalibrateConfig
from personavec.monitor.forecast import (
    Line,
    ScoredAnswers,
    condition_means,
    correlations,
    scored_answers,
)
from personavec.monitor.readings import gauge
from personavec.progress import Progress
from personavec.results import versions, without_nan
from personavec.rollouts import Rollout, collect, prompt_ids, say_estimate
from personavec.runs import Settings, atomic_write, claim, lock
from personavec.traits import TraitSpec
from personavec.vectors import FILE, PERCENTILES, Calibration, PersonaVector
from personavec.vectors.calibration import CalibrationResults


def run(
    loaded: LoadedModel,
    spec: TraitSpec,
    vector: PersonaVector,
    out: Path,
    config: CalibrateConfig | None = None,
    *,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Calibrate a vector and write `calibration.json` into `out`, usually the vector's folder.

    Generated answers stay in `out/calibration`, from which a killed run resumes. Raises UsageError
    for a spec without monitoring prompts, SettingsMismatchError when the folder was begun with
    other settings, and DataError when too few answers could be scored.
    """
    config = config or CalibrateConfig()
    judge, progress = judge or ContrastJudge(loaded, wrote_answers=True), progress or Progress()
    _check_monitoring(spec)
    directions = gauge([vector], loaded).directions
    folder = out / "calibration"
    written = partial(
        collect,
        loaded,
        sampling=Sampling(config.max_tokens, config.temperature, seed=config.seed),
        batch_tokens=config.batch_tokens,
        progress=progress,
    )
    judged = partial(written, spec=spec.at_most(judge_pairs=config.judge_pairs), judge=judge)
    with lock(folder):
        claim(folder, _settings(loaded, spec, vector, config, judge))

        progress.stages("examples", "monitoring", "neutral prompts", "forecast")
        # 1. Examples: the model's own answers to other questions that show the trait.
        examples, into = example_tasks(spec, config), folder / "examples"
        judged_examples = partial(judged, folder=into, label="examples")
        if not (into / "generated.jsonl").exists():
            n, write = expected(spec, config), partial(judged_examples, spec=None)
            say_estimate(examples, write, judged_examples, **n, progress=progress)
        tried = judged_examples(examples)

        # 2. Answers under every condition, with their prompts' projections.
        asked, notes = tasks_of_conditions(loaded, spec, best_examples(tried), config)
        answers = judged(
            [each.task for each in asked],
            folder=folder / "monitoring",
            activations=folder / "activations",
            label="monitoring",
        )
        scored = scored_answers(vector, asked, answers, folder / "activations")

        # 3. Projections of ordinary response tokens.
        asked_neutral, label = neutral_tasks(config), "neutral prompts"
        neutral = written(asked_neutral, folder=folder / "neutral-prompts", label=label)
        ordinary = _capped_tokens(loaded, neutral, directions)

        # 4. The forecast, fitted on some questions and tested on others.
        found = _calibration(loaded, spec, vector, config, judge, scored, ordinary, notes)
        atomic_write(out / FILE, found.to_json())
    return found


def _check_monitoring(spec: TraitSpec) -> None:
    if not spec.monitoring:
        raise UsageError(
            f"trait '{spec.name}' has no monitoring prompts; give its spec eight of them under "
            "'monitoring', from suppressing to encouraging"
        )


def _settings(
    loaded: LoadedModel,
    spec: TraitSpec,
    vector: PersonaVector,
    config: CalibrateConfig,
    judge: Judge,
) -> Settings:
    """The settings that a resumed run must share."""
    return {
        "command": "calibrate",
        "spec": spec.hash,
        "monitoring": list(spec.monitoring),
        "vector": vector.identity,
        "model": loaded.identity.as_dict(),
        "judge": judge.identity(),
        "config": asdict(config),
    }


def _capped_tokens(
    loaded: LoadedModel, neutral: Sequence[Rollout], directions: Directions
) -> npt.NDArray[np.float32]:
    """Projections [token] at all positions where a cap acts, from the last prompt token on.

    The last response token is left out, since it predicts no response token.
    """
    texts = [np.array([*prompt_ids(loaded, r), *r.response_ids], np.int32) for r in neutral]
    values = project_tokens(loaded.model, texts, directions)
    return np.concatenate(
        [
            own[len(own) - r.n_tokens - 1 : len(own) - 1, 0].numpy()
            for own, r in zip(values, neutral, strict=True)
        ]
    )


def _calibration(
    loaded: LoadedModel,
    spec: TraitSpec,
    vector: PersonaVector,
    config: CalibrateConfig,
    judge: Judge,
    scored: ScoredAnswers,
    ordinary: npt.NDArray[np.float32],
    notes: Sequence[str],
) -> Calibration:
    """Fit the line on one part of the answers, and test it on the other part."""
    fitted, test = scored.of(scored.fits), scored.of(~scored.fits)
    line = Line.fitted(fitted)
    results = CalibrationResults(
        correlations=correlations(test, config.seed),
        coverage=line.coverage(test, config.seed),
        conditions=condition_means(test, config.seed),
        fitted_on=fitted.counts(),
        tested_on=test.counts(),
        unscored=scored.unscored,
        notes=(*notes, *judge_notes(judge), *spec_notes([spec], chat_formats(judge, loaded))),
        judge=without_nan(judge.identity()),
        model=without_nan(loaded.identity.as_dict()),
        spec=spec.hash,
        settings=without_nan(asdict(config)),
        versions=versions(),
    )
    return Calibration(
        trait=vector.trait,
        vector=vector.hash,
        layer=vector.layer,
        unit=scored.unit,
        tokens=tuple(float(v) for v in np.percentile(ordinary, PERCENTILES)),
        results=results,
        **asdict(line),
    )
