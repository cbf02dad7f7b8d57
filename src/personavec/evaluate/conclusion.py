"""What an evaluation says, in words: the headline of its report, and the end of the command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from personavec.evaluate.results import EvaluateResults
from personavec.results import Estimate
from personavec.rollouts import Expression, ExpressionDifference
from personavec.wording import capitalised, estimated, moved

#: Points of coherence whose loss is worth a sentence.
_COHERENCE = 5.0


def conclusion(results: EvaluateResults) -> str:
    """How the two models differ; of one alone, how strongly it shows each trait."""
    if results.compare_to is None:
        said = [*_alone(results.traits)]
    else:
        said = [*differs(results.compare_to.differences)]
        said += [
            moved(f"the share of right answers in {task}", _percent(each), "points", ".0f")
            for task, each in results.compare_to.capability_differences.items()
            if each.value is not None
        ]
    if results.cue:
        said += [f"under cues, {each}" for each in differs(results.cue.differences)]
    return " ".join(f"{capitalised(each)}." for each in said)


def differs(differences: Mapping[str, ExpressionDifference]) -> Iterable[str]:
    """What changed in every trait, and where coherence fell with it."""
    for trait, of in differences.items():
        if of.log_odds.value is None:
            yield moved(trait, of.mean, "points of the trait score")
        else:
            yield moved(trait, of.log_odds, "nats")
        if (of.coherence.high or 0) < 0 and (of.coherence.value or 0) <= -_COHERENCE:
            yield moved(
                f"the coherence of answers to the questions on {trait}", of.coherence, "points"
            )


def _alone(traits: Mapping[str, Expression]) -> Iterable[str]:
    for trait, of in traits.items():
        share = of.estimate("share_above_50")
        if share.value is None:
            yield f"{trait} was not measured"
        else:
            yield f"{estimated(share, '.0%')} of answers show {trait}"


def _percent(share: Estimate) -> Estimate:
    return Estimate(
        *(None if end is None else 100 * end for end in (share.value, share.low, share.high))
    )
