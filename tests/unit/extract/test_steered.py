"""Steered answers that are added where a check of steering is not decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from personavec.extract import ExtractConfig
from personavec.extract.steered import SteeredRollouts
from personavec.extract.validation import SteeringFigures, measure
from personavec.extract.verdict import Reliability, verdict
from personavec.model import Steering
from personavec.results import Estimate
from personavec.rollouts import Rollout, Task

QUESTIONS = [f"Question {i}?" for i in range(10)]
QUICK = ExtractConfig(preset="quick")
RELIABLE = Reliability(Estimate(0.8, 0.7, 0.9), Estimate(0.9, 0.8, 1.0), 200)
#: Of answers to one question and of questions, as quick extractions of the bundled traits have
#: them: most of the noise is an answer's own.
WITHIN, BETWEEN = 3.5, 1.5


class Answers:
    """Draws log-odds of answers, and counts what was asked."""

    def __init__(
        self,
        seed: int,
        moves: Callable[[str, float], float],
        coherence: Callable[[float, int], float] = lambda *_: 95.0,
    ):
        self._random = np.random.default_rng(seed)
        self._question = dict(
            zip(QUESTIONS, self._random.normal(0, BETWEEN, len(QUESTIONS)), strict=True)
        )
        self._moves, self._coherence = moves, coherence
        self.asked: dict[str, Counter[tuple[str, float]]] = {}

    def __call__(self, tasks: Sequence[Task], label: str) -> list[Rollout]:
        return [self._answer(task, label) for task in tasks]

    def _answer(self, task: Task, label: str) -> Rollout:
        name = task.id.split("-")[0]
        coefficient = sum(s.coefficient for s in task.steering if isinstance(s, Steering))
        self.asked.setdefault(label, Counter())[name, coefficient] += 1
        mean = self._question[task.question] + self._moves(name, coefficient)
        return Rollout(
            id=task.id,
            question=task.question,
            pair=None,
            polarity=None,
            sample=task.sample,
            system=None,
            response="An answer.",
            response_ids=(1, 2, 3),
            n_tokens=3,
            seed=0,
            state="scored",
            log_odds=float(mean + self._random.normal(0, WITHIN)),
            coherence=self._coherence(coefficient, task.sample),
        )


def measured(answers: Answers, config: ExtractConfig = QUICK) -> SteeringFigures:
    """Steering by a vector of length 2 at layer 1, and by random directions."""
    torch.manual_seed(0)
    random = torch.randn(config.random_directions, 4)
    steered = SteeredRollouts(1, 2 * torch.ones(4) / 2, random, QUESTIONS, answers)
    return measure(steered, torch.ones(2), config, lambda _: None)


def test_a_clear_effect_needs_no_more_answers() -> None:
    answers = Answers(0, lambda name, c: 12 * c if name == "dose" else 0.0)
    found = measured(answers)
    assert found.added == 0
    assert "added answers" not in answers.asked
    assert verdict(found.doses, found.control, found.ends, RELIABLE).passed


def test_answers_are_added_at_the_end_that_is_open_and_decide_more() -> None:
    """Downwards the effect is plain; upwards one answer to each question is often too few."""

    def moves(name: str, c: float) -> float:
        return (20 * c if c < 0 else 0.5 * c) if name == "dose" else 0.0

    upper_end = {("dose", 4.0), *((f"random{i}", 4.0) for i in range(5))}
    passed: Counter[bool] = Counter()
    for seed in range(20):
        answers = Answers(seed, moves)
        found = measured(answers)
        once = measured(Answers(seed, moves), replace(QUICK, end_samples=0))
        passed[True] += verdict(found.doses, found.control, found.ends, RELIABLE).passed
        passed[False] += verdict(once.doses, once.control, once.ends, RELIABLE).passed
        added = answers.asked.get("added answers", Counter())
        assert set(added) in (set(), upper_end)
        assert found.added == sum(added.values())
        of = {dose.coefficient: dose.n for dose in found.doses}
        assert (of[4.0], of[-4.0]) == (10 + added["dose", 4.0], 10)
    assert passed[False] < passed[True]


def test_no_end_gets_more_answers_than_the_config_allows() -> None:
    answers = Answers(2, lambda *_: 0.0)
    found = measured(answers)
    assert verdict(found.doses, found.control, found.ends, RELIABLE).verdict != "passed"
    most = (1 + QUICK.end_samples) * len(QUESTIONS)
    assert max(dose.n for dose in (*found.doses, *found.control)) <= most


def test_a_curve_that_may_fall_within_gets_answers_where_it_may() -> None:
    """Both ends are plain; between two doses inside one answer to each question is too few."""
    curve = {-4.0: -6.0, -1.0: 1.5, 1.0: -1.5, 4.0: 6.0}
    added: Counter[float] = Counter()
    for seed in range(5):
        answers = Answers(seed, lambda name, c: curve.get(c, 0.0) if name == "dose" else 0.0)
        measured(answers)
        asked = answers.asked.get("added answers", Counter())
        added += Counter({c: n for (name, c), n in asked.items() if name == "dose"})
    assert {-1.0, 1.0} <= set(added)
    assert min(added[-1.0], added[1.0]) >= max(added[-2.0], added[2.0])


def test_a_vector_whose_failure_is_known_gets_no_more_answers() -> None:
    """Upwards it surely falls below every random direction; the other end would be open."""
    answers = Answers(3, lambda name, c: (-20.0 if c > 0 else 0.5 * c) if name == "dose" else 0.0)
    found = measured(answers)
    assert verdict(found.doses, found.control, found.ends, RELIABLE).verdict == "failed"
    assert found.added == 0


def test_an_end_that_more_answers_show_incoherent_is_left_for_the_next() -> None:
    """The new end has its own random directions, and the old one's are not reported."""

    def coherence(c: float, sample: int) -> float:
        return 95.0 if c < 4 or sample == 0 else 40.0

    looked_again = 0
    for seed in range(10):
        answers = Answers(seed, lambda name, c: 0.5 * c if name == "dose" else 0.0, coherence)
        found = measured(answers)
        if ("dose", 4.0) not in answers.asked.get("added answers", {}):
            continue
        looked_again += 1
        assert found.ends == (-4.0, 2.0)
        assert {dose.coefficient for dose in found.control} == {-4.0, 2.0}
        assert answers.asked["random directions"]["random0", 2.0] == len(QUESTIONS)
    assert looked_again


@pytest.mark.parametrize("end_samples", [0, QUICK.end_samples])
def test_a_vector_no_better_than_random_directions_passes_no_easier(end_samples: int) -> None:
    """Nothing moves the log-odds; fewer pass both ends than one check's interval would allow."""
    config = replace(QUICK, coefficients=(-1.0, 0.0, 1.0), end_samples=end_samples)
    checks = []
    for seed in range(100):
        found = measured(Answers(seed, lambda *_: 0.0), config)
        checks += verdict(found.doses, found.control, found.ends, RELIABLE).checks
    ends = [check for check in checks if check.name.startswith("beyond every random")]
    assert len(ends) == 200
    assert sum(check.verdict == "passed" for check in ends) <= 0.025 * len(ends)
