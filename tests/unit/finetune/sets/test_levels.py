"""Levels of a set: thirds of what was elicited."""

from typing import Any

from personavec.finetune.sets.levels import by_level
from personavec.rollouts import Rollout


def rollout(number: int, log_odds: float | None, **more: Any) -> Rollout:
    given: dict[str, Any] = {"polarity": "pos", "kept": True, "trait_score": 90.0, **more}
    return Rollout(
        id=f"{given['polarity']}-{number}",
        question=f"q{number % 3}",
        pair=None,
        sample=0,
        system=None,
        response="So.",
        response_ids=(1,),
        n_tokens=1,
        seed=0,
        log_odds=log_odds,
        **given,
    )


def test_levels_are_thirds_of_what_was_elicited_by_the_judge() -> None:
    elicited = [rollout(n, float(n)) for n in (5, 2, 8, 0, 7, 1, 6, 3, 4)]
    dropped = rollout(99, 99.0, kept=False)
    neutral = [rollout(n, -9.0, polarity=None) for n in range(9)]
    found = by_level([*elicited, dropped, *neutral])
    assert [r.log_odds for r in found["mild"]] == [0, 1, 2]
    assert [r.log_odds for r in found["strong"]] == [6, 7, 8]
    # As many normal ones, of different questions.
    assert [r.question for r in found["normal"]] == ["q0", "q1", "q2"]
    # What shows less than the model's own answers to the question do is no case of the trait.
    usual = [rollout(n, 3.5, polarity=None) for n in range(9)]
    found = by_level([*elicited, *usual])
    assert [r.log_odds for r in found["mild"]] == [4]
    assert [r.log_odds for r in found["strong"]] == [8]
    # A judge without log-odds orders by its score.
    scored = [rollout(n, None, trait_score=50.0 + n) for n in (3, 1, 2)]
    own = [rollout(n, None, trait_score=9.0, polarity=None) for n in range(3)]
    assert [r.trait_score for r in by_level([*scored, *own])["strong"]] == [53]
