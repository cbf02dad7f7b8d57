"""Steering as a test of a vector: what order doses come in, and what could not be measured."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest

from personavec.errors import SpecError, TooFewRolloutsError, UsageError
from personavec.extract import ExtractConfig
from personavec.extract.pipeline import split_questions
from personavec.extract.results import RandomDose, SteeredDose
from personavec.extract.validation import coherent_range, select
from personavec.extract.verdict import Reliability, verdict
from personavec.results import Estimate
from personavec.traits import TraitSpec


def dose(coefficient: float, log_odds: float | None = None, *, layer: int = 1) -> SteeredDose:
    """Coherent and with a narrow interval; without log-odds, of answers that all failed."""
    missing = log_odds is None
    return SteeredDose(
        layer=layer,
        coefficient=coefficient,
        log_odds=log_odds,
        low=None if log_odds is None else log_odds - 0.5,
        high=None if log_odds is None else log_odds + 0.5,
        coherence=None if missing else 90.0,
        coherence_low=None if missing else 88.0,
        coherence_high=None if missing else 92.0,
        coherent=not missing,
        n=0 if missing else 12,
        empty=0,
    )


RELIABLE = Reliability(Estimate(0.8, 0.7, 0.9), Estimate(0.9, 0.8, 1.0), 200)
RISING = [dose(c, 2 * c) for c in (-2.0, -1.0, 0.0, 1.0, 2.0)]
CONTROL = [
    RandomDose(direction=i, **vars(replace(dose(c, 0.0), low=-1.0, high=1.0)))
    for c in (-2.0, 2.0)
    for i in (0, 1)
]


@pytest.mark.parametrize("doses", list(itertools.permutations(RISING))[::7])
def test_the_verdict_is_the_same_in_whatever_order_doses_come(doses: Sequence[SteeredDose]) -> None:
    ends = coherent_range(doses)
    assert ends == (-2.0, 2.0)
    assert verdict(doses, CONTROL, ends, RELIABLE) == verdict(RISING, CONTROL, ends, RELIABLE)
    assert verdict(doses, CONTROL, ends, RELIABLE).passed


def test_coefficients_of_an_extraction_are_sorted_and_each_taken_once() -> None:
    config = ExtractConfig(coefficients=(0, -2, 2, 2), sweep_coefficients=(4, 2))
    assert config.coefficients == (-2, 0, 2)
    assert config.sweep_coefficients == (2, 4)


def test_what_could_not_be_measured_passes_no_check() -> None:
    """A dose without log-odds, and a random direction without an interval."""
    gap = [*RISING[:3], dose(1.0), RISING[4]]
    checks = {c.name: c.verdict for c in verdict(gap, CONTROL, (-2.0, 2.0), RELIABLE).checks}
    assert checks["dose-response rises, as far as its intervals tell"] == "not decided"
    for place in range(len(CONTROL)):
        control = [*CONTROL]
        control[place] = replace(control[place], low=None, high=None)
        assert not verdict(RISING, control, (-2.0, 2.0), RELIABLE).passed
    assert verdict(RISING, CONTROL, (-2.0, 2.0), RELIABLE).passed
    assert not verdict(RISING, [], (-2.0, 2.0), RELIABLE).passed


def test_a_layer_is_selected_among_doses_that_were_measured() -> None:
    measured = [dose(2.0, 1.0, layer=2), dose(2.0, 3.0, layer=3)]
    for sweep in itertools.permutations([dose(2.0, layer=1), *measured]):
        assert select(sweep).layer == 3
    with pytest.raises(TooFewRolloutsError, match="no layer can be selected: under none of 2"):
        select([dose(2.0), dose(4.0)])


@pytest.mark.parametrize("n", range(2, 12))
def test_both_halves_of_the_questions_are_enough_for_intervals(n: int) -> None:
    spec = TraitSpec.model_validate(
        {
            "name": "odd",
            "description": "Being odd.",
            "instruction": [{"pos": "Odd.", "neg": "Even."}],
            "questions": {"extraction": ["A?", "B?"], "evaluation": [f"{i}?" for i in range(n)]},
        }
    )
    if n < 4:
        with pytest.raises(SpecError, match=f"{n} evaluation questions; an extraction needs 4"):
            split_questions(spec, ExtractConfig())
        return
    aside, test = split_questions(spec, ExtractConfig())
    assert (*aside, *test) == spec.questions.evaluation
    assert min(len(aside), len(test)) >= 2
    with pytest.raises(UsageError, match=f"{n + 1} questions: trait 'odd' has {n}"):
        spec.last_questions(n + 1)
    assert spec.last_questions(2) == spec.questions.evaluation[-2:]
