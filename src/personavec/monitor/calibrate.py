"""Calibrate a vector: how well does the prompt tell how strongly the answer shows the trait?

The paper's test of monitoring (section 3.3): answers under eight system prompts, from suppressing
to encouraging, and after 0 to 20 examples that show the trait. The last prompt token's projection
is set against the judged expression of the answer that follows. The forecast is fitted on the
extraction questions and reported on evaluation questions.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from personavec.errors import DataError, UsageError
from personavec.judges import ContrastJudge, Judge, judge_notes, readers, spec_notes
from personavec.model import EarlierTurns, LoadedModel, project_tokens
from personavec.model.engine import SPANS, Sampling
from personavec.monitor.readings import gauge
from personavec.progress import Progress
from personavec.results import versions, without_nan
from personavec.rollouts import Rollout, Task, bounds, collect, load_activations, prompt_ids
from personavec.runs import atomic_write, claim, lock
from personavec.stats import clustered_bootstrap, correlation_interval
from personavec.traits import TraitSpec, neutral_prompts, question_bank
from personavec.vectors import COVERAGE, FILE, PERCENTILES, Calibration, PersonaVector
from personavec.wording import plural

#: Fewer examples than this that show the trait are none: many-shot settings are left out.
_MIN_EXAMPLES = 2


@dataclass(frozen=True)
class CalibrateConfig:
    """Everything that decides a calibration, beside the model, the spec and the vector."""

    fit_questions: int = 10
    """Extraction questions that the forecast is fitted on."""
    test_questions: int = 12
    """Evaluation questions that it is reported on, the last ones: an extraction selects a vector's
    layer on the first ones."""
    shots: tuple[int, ...] = (0, 5, 10, 15, 20)
    """Numbers of earlier turns that show the trait."""
    example_questions: int = 40
    """Questions whose answers are tried as examples; those that show the trait best are taken."""
    neutral_prompts: int = 48
    """Neutral prompts whose answers tell where ordinary tokens lie."""
    max_tokens: int = 64
    temperature: float = 0.7
    seed: int = 0
    batch_tokens: int = 16384

    def __post_init__(self) -> None:
        if self.fit_questions < 3 or self.test_questions < 2:
            raise UsageError("fitting needs at least 3 questions, an interval at least 2")
        if not self.shots or min(self.shots) < 0:
            raise UsageError("the numbers of examples are 0 or more")
        if self.max_tokens < 1 or self.batch_tokens < 1 or self.neutral_prompts < 2:
            raise UsageError("max_tokens and batch_tokens are at least 1, neutral_prompts 2")
        if self.neutral_prompts > len(neutral_prompts()):
            raise UsageError(
                f"{self.neutral_prompts} neutral prompts: the package has {len(neutral_prompts())}"
            )


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
    """Calibrate a vector and write `calibration.json` into `out`, the vector's folder or another.

    What was generated stays in `out/calibration`, from which a killed run continues. Raises
    UsageError for a spec without monitoring prompts, SettingsMismatchError when the folder was
    begun with other settings, DataError when too few answers could be scored.
    """
    config = config or CalibrateConfig()
    progress = progress or Progress()
    judge = judge or ContrastJudge(loaded, wrote_answers=True)
    if not spec.monitoring:
        raise UsageError(
            f"trait '{spec.name}' has no monitoring prompts; give its spec eight of them under "
            "'monitoring', from suppressing to encouraging"
        )
    reading = gauge([vector], loaded)
    folder = out / "calibration"
    with lock(folder):
        claim(folder, _settings(loaded, spec, vector, config, judge))
        sampling = Sampling(config.max_tokens, config.temperature, seed=config.seed)

        def gather(tasks: Sequence[Task], label: str, *, scored: bool = True) -> list[Rollout]:
            return collect(
                loaded,
                tasks,
                sampling,
                folder / label.replace(" ", "-"),
                spec=spec if scored else None,
                judge=judge if scored else None,
                activations=folder / "activations" if label == "monitoring" else None,
                batch_tokens=config.batch_tokens,
                label=label,
                progress=progress,
            )

        # Examples: the model's own answers to other questions, told to show the trait.
        examples = best_examples(gather(_example_tasks(spec, config), "examples"))

        # Answers under every condition, with their prompts' projections.
        tasks, notes = _tasks(loaded, spec, examples, config)
        answers = gather([task for task, *_ in tasks], "monitoring")
        table = _table(vector, tasks, answers, folder / "activations", spec)

        # Where ordinary response tokens lie.
        neutral = gather(
            [
                Task(id=f"neutral-{i}", question=question)
                for i, question in enumerate(neutral_prompts()[: config.neutral_prompts])
            ],
            "neutral prompts",
            scored=False,
        )
        texts = [np.array([*prompt_ids(loaded, r), *r.response_ids], np.int32) for r in neutral]
        values = project_tokens(loaded.model, texts, reading.directions)
        # All positions that a cap acts on: from the last prompt token to the last but one.
        ordinary = np.concatenate(
            [
                own[len(own) - r.n_tokens - 1 : len(own) - 1, 0].numpy()
                for own, r in zip(values, neutral, strict=True)
            ]
        )

        about = {
            "notes": [
                *notes,
                *judge_notes(judge),
                *spec_notes([spec], readers(judge, loaded)),
            ],
            "judge": judge.identity(),
            "model": loaded.identity.as_dict(),
            "spec": spec.hash,
            "settings": asdict(config),
            "versions": versions(),
        }
        found = _calibration(vector, table, ordinary, config.seed, about)
        atomic_write(out / FILE, found.to_json())
    return found


def _settings(
    loaded: LoadedModel,
    spec: TraitSpec,
    vector: PersonaVector,
    config: CalibrateConfig,
    judge: Judge,
) -> dict[str, Any]:
    return {
        "command": "calibrate",
        "spec": spec.hash,
        "monitoring": list(spec.monitoring),
        "vector": vector.identity,
        "model": loaded.identity.as_dict(),
        "judge": judge.identity(),
        "config": asdict(config),
    }


# What is asked


def _example_tasks(spec: TraitSpec, config: CalibrateConfig) -> list[Task]:
    """Questions of the bank that the spec does not ask, each under one positive prompt in turn."""
    own = {*spec.questions.extraction, *spec.questions.evaluation}
    asked = [question for question in question_bank() if question not in own]
    pairs = spec.instruction
    return [
        Task(
            id=f"example-{i}",
            question=question,
            system=pairs[i % len(pairs)].pos,
            pair=i % len(pairs),
            polarity="pos",
            earlier=pairs[i % len(pairs)].turns("pos"),
        )
        for i, question in enumerate(asked[: config.example_questions])
    ]


def best_examples(rollouts: Sequence[Rollout]) -> EarlierTurns:
    """Questions with answers that show the trait and are coherent, the strongest first."""
    shown = [
        r
        for r in rollouts
        if r.trait_score is not None
        and r.trait_score > 50
        and (r.coherence is None or r.coherence >= 50)
    ]
    strength = [r.trait_score if r.log_odds is None else r.log_odds for r in shown]
    order = sorted(range(len(shown)), key=lambda i: -float(strength[i] or 0))
    return tuple((shown[i].question, shown[i].response) for i in order)


#: A task with its condition, and whether its question is one of those that fit.
_Asked = tuple[Task, str, bool]


def _tasks(
    loaded: LoadedModel, spec: TraitSpec, examples: EarlierTurns, config: CalibrateConfig
) -> tuple[list[_Asked], list[str]]:
    """Every question under every condition, and notes on conditions that had to be left out."""
    questions = [(q, True) for q in spec.questions.extraction[: config.fit_questions]]
    questions += [(q, False) for q in spec.questions.evaluation[-config.test_questions :]]
    usable = examples[: max(config.shots)]
    shots = sorted({n for n in config.shots if n == 0 or _MIN_EXAMPLES <= n <= len(usable)})
    notes = []
    if left := sorted({*config.shots} - {*shots}):
        notes.append(
            f"{len(examples)} of {config.example_questions} answers under the trait's positive "
            f"prompts showed it, so settings of {', '.join(map(str, left))} examples were left out."
        )
    tasks: list[_Asked] = []
    for number, (question, fits) in enumerate(questions):
        for level, prompt in enumerate(spec.monitoring, start=1):
            task = Task(f"prompt{level}-q{number}", question, prompt)
            tasks.append((task, f"prompt {level}", fits))
        for n in shots:
            earlier = random.Random(f"{config.seed} {number} {n}").sample(usable, n)
            task = Task(f"shots{n}-q{number}", question, earlier=tuple(earlier))
            tasks.append((task, f"{n} examples", fits))
    fitting = [
        asked
        for asked in tasks
        if len(prompt_ids(loaded, asked[0])) + config.max_tokens <= loaded.context
    ]
    if len(fitting) < len(tasks):
        notes.append(
            f"Prompts with examples that exceed the model's context were left out "
            f"({len(tasks) - len(fitting)})."
        )
    return fitting, notes


# What comes of it


@dataclass(frozen=True, eq=False)
class _Table:
    """Scored answers: the prompt's projection, the expression, and where they come from."""

    projection: npt.NDArray[np.float64]
    expression: npt.NDArray[np.float64]
    question: npt.NDArray[Any]
    condition: npt.NDArray[Any]
    fits: npt.NDArray[np.bool_]
    unit: str
    unscored: int

    def of(self, chosen: npt.NDArray[np.bool_]) -> _Table:
        return _Table(
            self.projection[chosen],
            self.expression[chosen],
            self.question[chosen],
            self.condition[chosen],
            self.fits[chosen],
            self.unit,
            0,
        )


def _table(
    vector: PersonaVector,
    tasks: Sequence[_Asked],
    answers: Sequence[Rollout],
    activations: Path,
    spec: TraitSpec,
) -> _Table:
    unit = "log_odds" if any(r.log_odds is not None for r in answers) else "score"
    rows = []
    for (_, condition, fits), answer in zip(tasks, answers, strict=True):
        value = answer.log_odds if unit == "log_odds" else answer.trait_score
        if value is not None:
            rows.append((answer, condition, fits, value))
    if len(rows) < 10:
        raise DataError(
            f"{len(rows)} of {plural(len(answers), 'answer')} for '{spec.name}' could be "
            "scored, too few to calibrate with"
        )
    states = load_activations(activations, [answer.id for answer, *_ in rows])
    last = states[:, SPANS.index("prompt_last"), vector.layer]
    return _Table(
        projection=vector.project(last).double().numpy(),
        expression=np.array([value for *_, value in rows], np.float64),
        question=np.array([answer.question for answer, *_ in rows]),
        condition=np.array([condition for _, condition, *_ in rows]),
        fits=np.array([fits for *_, fits, _ in rows]),
        unit=unit,
        unscored=len(answers) - len(rows),
    )


def _calibration(
    vector: PersonaVector,
    table: _Table,
    ordinary: npt.NDArray[np.float32],
    seed: int,
    about: Mapping[str, Any],
) -> Calibration:
    fitted, test = table.of(table.fits), table.of(~table.fits)
    slope, intercept = _line(fitted.projection, fitted.expression)
    below, above = np.quantile(_missed(fitted), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    missed = test.expression - (intercept + slope * test.projection)
    held = ((missed >= below) & (missed <= above)).astype(np.float64)
    families = {
        "all": np.ones(len(test.expression), bool),
        "prompts": np.char.startswith(test.condition, "prompt"),
        "examples": np.char.endswith(test.condition, "examples"),
    }
    correlations = {
        name: _correlations(test.of(chosen), seed)
        for name, chosen in families.items()
        if len(set(test.condition[chosen])) > 1
    }
    return Calibration(
        trait=vector.trait,
        vector=vector.hash,
        layer=vector.layer,
        unit="log_odds" if table.unit == "log_odds" else "score",
        slope=slope,
        intercept=intercept,
        below=float(below),
        above=float(above),
        tokens=tuple(float(v) for v in np.percentile(ordinary, PERCENTILES)),
        results=without_nan(
            {
                "correlations": correlations,
                "coverage": bounds(clustered_bootstrap(held, test.question.tolist(), seed=seed)),
                "conditions": [
                    {
                        "condition": name,
                        "n": int((test.condition == name).sum()),
                        "projection": float(test.projection[test.condition == name].mean()),
                        "expression": float(test.expression[test.condition == name].mean()),
                    }
                    for name in dict.fromkeys(test.condition.tolist())
                ],
                "fitted_on": {
                    "answers": len(fitted.expression),
                    "questions": len({*fitted.question}),
                },
                "tested_on": {"answers": len(test.expression), "questions": len({*test.question})},
                "unscored": table.unscored,
                **about,
            }
        ),
    )


def _line(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Slope and intercept by least squares; a flat line where x does not vary."""
    spread = float(np.square(x - x.mean()).sum())
    slope = float(((x - x.mean()) * y).sum()) / spread if spread > 0 else 0.0
    return slope, float(y.mean()) - slope * float(x.mean())


def _missed(table: _Table) -> npt.NDArray[np.float64]:
    """What each answer is beyond the line that was fitted without its question."""
    missed = np.empty_like(table.expression)
    for question in set(table.question.tolist()):
        own = table.question == question
        slope, intercept = _line(table.projection[~own], table.expression[~own])
        missed[own] = table.expression[own] - (intercept + slope * table.projection[own])
    return missed


def _correlations(table: _Table, seed: int) -> dict[str, Any]:
    """Pearson's, over all answers and within conditions, with intervals over questions."""
    values = (table.projection, table.expression, table.question.tolist())
    overall = correlation_interval(*values, seed=seed)
    within = correlation_interval(*values, within=table.condition.tolist(), seed=seed)
    return {"overall": bounds(overall), "within": bounds(within), "n": len(table.expression)}
