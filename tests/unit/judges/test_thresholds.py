"""The threshold of a judge moves with its scores and belongs to one judge on one trait."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from scipy.special import expit, logit

from personavec import TraitSpec
from personavec.judges import Answer, Score, known_answers
from personavec.judges.results import Undefined
from personavec.judges.thresholds import DEFAULT, bundled_threshold, showing_above
from personavec.traits import BUNDLED, bundled_traits, load_trait


class ByNumber:
    """Scores an answer by the log-odds that it ends in, moved by `shift`."""

    name, group = "by number", 50

    def __init__(self, shift: float = 0.0, sign: float = 1.0):
        self.shift, self.sign = shift, sign

    def identity(self) -> dict[str, Any]:
        return {"judge": self.name}

    def score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        found = [self.sign * float(a.response) + self.shift for a in answers]
        return [Score("scored", log_odds=x, trait_score=float(100 * expit(x))) for x in found]


def make_spec(shows: Sequence[float], not_: Sequence[float]) -> TraitSpec:
    checks = [
        {"question": f"Q{i}?", "answer": str(value), "shows": verdict}
        for i, pair in enumerate(zip(shows, not_, strict=True))
        for verdict, value in zip((True, False), pair, strict=True)
    ]
    return TraitSpec.model_validate(
        {
            "name": "odd",
            "description": "Being odd.",
            "instruction": [{"pos": "Odd.", "neg": "Even."}],
            "questions": {"extraction": ["A?", "B?"], "evaluation": ["C?", "D?"]},
            "checks": checks,
        }
    )


SPEC = make_spec([3, 4, 2, 5, 1, 3.5, -0.5, 4.5], [-2, -3, -1, -4, 0.5, -2.5, -5, -3.5])


def log_odds_of_threshold(shift: float) -> float:
    found = known_answers.run(ByNumber(shift), SPEC).threshold
    assert found is not None
    assert found.answers == 8
    return float(logit(found.trait_score / 100))


@pytest.mark.parametrize("shift", [-6, 4, 9])
def test_a_threshold_moves_with_the_judge_and_the_verdicts_stay(shift: float) -> None:
    assert log_odds_of_threshold(shift) == pytest.approx(log_odds_of_threshold(0) + shift, abs=1e-4)
    straight, moved = (known_answers.run(ByNumber(by), SPEC) for by in (0, shift))
    for half in ("tune", "report"):
        at = straight.halves[half].agreement_at_threshold
        assert moved.halves[half].agreement_at_threshold == at
        assert at.value > moved.halves[half].agreement.value
    assert [row.answer for row in moved.wrong] == [row.answer for row in straight.wrong]


def test_a_threshold_lies_between_sides_that_do_not_overlap() -> None:
    found = known_answers.run(ByNumber(), make_spec([7, 8, 9, 10], [1, 2, 3, 4])).threshold
    assert found is not None
    assert expit(4) < found.trait_score / 100 < expit(7)


def test_a_threshold_is_fitted_on_the_tune_half_alone() -> None:
    other = [
        c if half == "tune" else c.model_copy(update={"shows": not c.shows})
        for c, half in known_answers.halves(SPEC)
    ]
    turned = known_answers.run(ByNumber(), SPEC.model_copy(update={"checks": tuple(other)}))
    straight = known_answers.run(ByNumber(), SPEC)
    assert turned.threshold == straight.threshold
    share = straight.halves["report"].agreement_at_threshold.value
    assert turned.halves["report"].agreement_at_threshold.value == pytest.approx(1 - share)


def test_a_judge_that_ranks_the_wrong_way_has_no_threshold() -> None:
    found = known_answers.run(ByNumber(sign=-1), SPEC)
    assert found.threshold is None
    assert isinstance(found.halves["report"].agreement_at_threshold, Undefined)


@pytest.mark.parametrize("name", bundled_traits())
def test_a_bundled_threshold_belongs_to_its_judge_model_and_pairs(name: str) -> None:
    spec, _ = load_trait(name)
    record = json.loads((BUNDLED / "thresholds.json").read_text("utf-8"))
    (judge,) = [own["judge"] for own in record["thresholds"] if own["trait"] == name]
    found = bundled_threshold(spec, judge)
    assert found is not None
    assert found.answers == len(known_answers.halves(spec, "tune"))
    assert 0 < found.trait_score < 100
    assert showing_above(spec, judge) == found.trait_score
    of_model = judge["model"]
    assert bundled_threshold(spec, {**judge, "model": {**of_model, "dtype": "x"}}) == found
    for other, its in [
        (spec, {**judge, "judge": "rubric"}),
        (spec, {**judge, "model": {**of_model, "template_hash": "other"}}),
        (spec, {**judge, "model": {**of_model, "weights": "other"}}),
        (spec, {"judge": "api", "endpoint": "http://x", "model": "gpt"}),
        (spec.at_most(judge_pairs=1), judge),
        (spec.model_copy(update={"name": "another"}), judge),
    ]:
        assert bundled_threshold(other, its) is None
        assert showing_above(other, its) == DEFAULT
