"""A calibration says what was measured, on other questions than it was fitted on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from personavec import LoadedModel, PersonaVector, load_trait, load_vector
from personavec.errors import DataError, UsageError
from personavec.judges import Answer, Score
from personavec.model import capture_means, chat
from personavec.monitor import CalibrateConfig
from personavec.monitor.calibrate import run
from personavec.monitor.calibration_tasks import best_examples
from personavec.progress import Progress
from personavec.rollouts.rollout import iter_rollouts
from personavec.stats import correlation_interval
from personavec.traits import TraitSpec
from personavec.vectors import PERCENTILES

QUIET = Progress(quiet=True)
CONFIG = CalibrateConfig(
    fit_questions=3,
    test_questions=3,
    shots=(0, 2),
    example_questions=4,
    neutral_prompts=3,
    max_tokens=4,
)


class Lengths:
    """A judge that only counts: more words under a system prompt are more of the trait."""

    name, group = "lengths", 10

    def identity(self) -> dict[str, str]:
        return {"judge": self.name}

    def score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        return [
            Score("scored", log_odds=len(a.system or "") / 10, trait_score=99, coherence=99)
            for a in answers
        ]


@pytest.fixture
def spec() -> TraitSpec:
    return load_trait("terse", "Uses few words.")[0]


@pytest.fixture
def vector(llama: LoadedModel, random_vector: Callable[..., PersonaVector]) -> PersonaVector:
    return random_vector(llama, 2, "terse")


def test_it_is_fitted_and_reported_as_it_says(
    llama: LoadedModel, spec: TraitSpec, vector: PersonaVector, tmp_path: Path
) -> None:
    """Line, correlations and percentiles recomputed from what was generated."""
    vector.save(tmp_path)
    found = run(llama, spec, vector, tmp_path, CONFIG, judge=Lengths(), progress=QUIET)
    answers = list(iter_rollouts(tmp_path / "calibration" / "monitoring" / "generated.jsonl"))
    answers = [a for a in answers if a.n_tokens]

    def last(answer) -> float:
        ids = llama.chat.prompt_ids(chat(answer.question, answer.system, answer.earlier))
        states = capture_means(llama.model, [ids], [[(len(ids) - 1, len(ids))]], layers=[2])
        return float(vector.project(states[0, 0, 0]))

    fitting = [a for a in answers if a.question in spec.questions.extraction]
    testing = [a for a in answers if a.question in spec.questions.evaluation[-3:]]
    assert len(fitting) + len(testing) == len(answers)
    assert {a.question for a in fitting} == {*spec.questions.extraction[:3]}
    slope, intercept = np.polyfit(
        [last(a) for a in fitting], [len(a.system or "") / 10 for a in fitting], 1
    )
    assert found.slope == pytest.approx(slope, rel=1e-2, abs=1e-3)
    assert found.intercept == pytest.approx(intercept, rel=1e-2, abs=1e-2)
    r = np.corrcoef([last(a) for a in testing], [len(a.system or "") / 10 for a in testing])[0, 1]
    results = found.results
    assert results is not None
    overall = results.correlations["all"].overall
    assert overall.value == pytest.approx(r, abs=1e-2)
    # Within a condition this judge's scores do not vary at all.
    assert results.correlations["all"].within.value is None
    assert len(found.tokens) == len(PERCENTILES)
    assert list(found.tokens) == sorted(found.tokens)
    # It lies beside the vector and is loaded with it.
    assert load_vector(tmp_path).calibration == found
    again = run(llama, spec, vector, tmp_path, CONFIG, judge=Lengths(), progress=QUIET)
    assert again == found


def test_a_calibration_of_another_vector_is_refused(
    llama: LoadedModel, spec: TraitSpec, vector: PersonaVector, tmp_path: Path
) -> None:
    run(llama, spec, vector, tmp_path, CONFIG, judge=Lengths(), progress=QUIET)
    replace(vector, response_mean_diff=vector.response_mean_diff + 1).save(tmp_path)
    with pytest.raises(DataError, match="another vector"):
        load_vector(tmp_path)
    record = json.loads((tmp_path / "calibration.json").read_text("utf-8"))
    (tmp_path / "calibration.json").write_text(json.dumps({**record, "tokens": [1.0]}))
    with pytest.raises(DataError, match=r"calibration\.json is damaged"):
        load_vector(tmp_path)


def test_a_spec_without_monitoring_prompts_says_so(
    llama: LoadedModel, spec: TraitSpec, vector: PersonaVector, tmp_path: Path
) -> None:
    bare = spec.model_copy(update={"monitoring": ()})
    with pytest.raises(UsageError, match="no monitoring prompts"):
        run(llama, bare, vector, tmp_path, CONFIG, judge=Lengths(), progress=QUIET)


def test_examples_are_the_strongest_that_show_the_trait() -> None:
    from personavec.rollouts import Rollout

    def rollout(name: str, log_odds: float | None, coherence: float = 90) -> Rollout:
        score = None if log_odds is None else 60.0 if log_odds > 0 else 40.0
        return Rollout(
            id=name,
            question=name,
            pair=0,
            polarity="pos",
            sample=0,
            system=None,
            response=f"says {name}",
            response_ids=(1,),
            n_tokens=1,
            seed=0,
            log_odds=log_odds,
            trait_score=score,
            coherence=coherence,
        )

    tried = [rollout("weak", 1), rollout("no", -2), rollout("strong", 9), rollout("odd", 5, 10)]
    assert best_examples([*tried, rollout("unscored", None)]) == (
        ("strong", "says strong"),
        ("weak", "says weak"),
    )


def test_correlation_within_groups_sees_no_difference_between_them() -> None:
    """Against numpy, and against residuals taken group by group."""
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], 20)
    clusters = np.tile(np.arange(20), 3)
    x = rng.normal(size=60) + 10 * groups
    y = rng.normal(size=60) + 10 * groups
    overall = correlation_interval(x, y, clusters.tolist())
    assert overall.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert overall.low > 0.9
    within = correlation_interval(x, y, clusters.tolist(), within=groups.tolist())
    residuals = [
        np.concatenate([v[groups == g] - v[groups == g].mean() for g in range(3)]) for v in (x, y)
    ]
    assert within.value == pytest.approx(np.corrcoef(*residuals)[0, 1])
    assert within.low < within.value < within.high < 0.7
    assert np.isnan(correlation_interval(np.ones(60), y, clusters.tolist()).value)
    with pytest.raises(DataError, match="its partner"):
        correlation_interval(x[:-1], y, clusters.tolist())


def test_a_forecast_is_a_line_with_its_interval() -> None:
    from personavec.vectors import Calibration

    common = dict(trait="t", vector="v", layer=1, slope=20.0, intercept=50.0, below=-9.0, above=9.0)
    line = Calibration(unit="score", tokens=tuple(map(float, PERCENTILES)), **common)
    found = line.forecast(1.0)
    assert (found.value, found.low, found.high) == (70.0, 61.0, 79.0)
    assert line.forecast(10.0).high == 100.0
    assert line.ceiling(25.0) == 25.0
    with pytest.raises(UsageError, match="percentile 100"):
        line.ceiling(100)
