"""The verdict on a vector: whether steering with it works, and it is stable, by intervals.

A check passes where the intervals show what it asks for, fails where they show that it is not so,
and is not decided where they are too wide for either. Fewer answers make intervals wider, and wider
intervals around the same means decide less: they turn no failure into a pass, except that a dip of
the curve that is smaller than its rise may go unseen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from personavec.extract.results import (
    RandomDose,
    SteeredDose,
    ValidationCheck,
    ValidationVerdict,
)
from personavec.judges import COHERENCE_FLOOR
from personavec.results import Estimate
from personavec.stats import Interval, monotone_within_intervals, times_as_many
from personavec.vectors import STABLE, TELLS_APART, ReliabilityCheck, Verdict
from personavec.wording import decimal, plural

_SIDES = (("positive", 1), ("negative", -1))


def verdict(
    doses: Sequence[SteeredDose],
    control: Sequence[RandomDose],
    ends: tuple[float, float],
    reliability: Reliability,
) -> ValidationVerdict:
    """Whether steering works over the coherent range `ends`, and whether the vector is stable.

    Each check states its figures.
    """
    steering = [check for check, _ in _steering_checks(doses, control, ends)]
    return ValidationVerdict.of(
        [*steering, _stable(reliability), _tells_apart(reliability.held_out)]
    )


@dataclass(frozen=True)
class OpenAt:
    """The coefficients at which more answers may decide checks of steering, in order."""

    vector: tuple[float, ...] = ()
    controls: tuple[float, ...] = ()
    """At which the random directions need them, too."""


def undecided(
    doses: Sequence[SteeredDose], control: Sequence[RandomDose], ends: tuple[float, float]
) -> OpenAt:
    """Where the checks of steering that are not decided would have more answers.

    Nowhere once one of them has failed: the verdict is known.
    """
    checks = _steering_checks(doses, control, ends)
    if any(check.verdict == "failed" for check, _ in checks):
        return OpenAt()
    rests_on = [on for check, on in checks if check.verdict == "not decided"]
    return OpenAt(
        vector=tuple(sorted({c for on in rests_on for c in on.vector})),
        controls=tuple(sorted({c for on in rests_on for c in on.controls})),
    )


def _steering_checks(
    doses: Sequence[SteeredDose], control: Sequence[RandomDose], ends: tuple[float, float]
) -> list[tuple[ValidationCheck, OpenAt]]:
    """The checks of steering, and the coefficients whose answers each rests on most."""
    ordered = sorted(doses, key=lambda dose: dose.coefficient)
    inside = [dose for dose in ordered if ends[0] <= dose.coefficient <= ends[1]]
    nearest = _next_to_zero(ordered)
    found = [
        (_coherent(ordered, ends), OpenAt(tuple(dose.coefficient for dose in nearest))),
        (_rises(inside), OpenAt((ends[0], 0.0, ends[1], *_may_fall_most(inside)))),
    ]
    for name, sign in _SIDES:
        end = inside[-(sign > 0)]
        at = (end.coefficient,) if end.coefficient else ()
        found.append((_beyond_random(name, sign, end, control), OpenAt(at, at)))
    return found


@dataclass(frozen=True)
class Reliability:
    """Would other questions have given the same vector, and does it tell responses apart?"""

    split_half: Estimate
    """Cosine of the vectors of two halves of the questions."""
    held_out: Estimate
    """AUC of projections of held-out responses, under positive against negative prompts."""
    rollouts: int
    """Of both polarities, kept or not."""

    def more_rollouts(self) -> float:
        """How many more would lift the whole interval of the split-half cosine above its bound.

        By Spearman and Brown's formula for its lower end; 0 if it is there already, NaN if it was
        not measured, infinite if it reaches 0.
        """
        if self.split_half.low is None:
            return math.nan
        times = times_as_many(self.split_half.low, STABLE.bound)
        return max(0.0, times - 1) * self.rollouts


def _stable(found: Reliability) -> ValidationCheck:
    """Whether two halves of the questions give the same direction."""
    more = found.more_rollouts()
    if math.isinf(more):
        needed = "; how many more rollouts it needs cannot be told from an interval that reaches 0"
    else:
        needed = f"; needs about {plural(math.ceil(more), 'more rollout')}" if more > 0 else ""
    return _reliability_check(STABLE, found.split_half, "split-half cosine", needed)


def _tells_apart(found: Estimate) -> ValidationCheck:
    """Whether projections tell held-out responses apart."""
    return _reliability_check(TELLS_APART, found, "held-out AUC")


def _reliability_check(
    check: ReliabilityCheck, found: Estimate, figure: str, remedy: str = ""
) -> ValidationCheck:
    shown = (
        f"{decimal(found.value)} ({decimal(found.low)} to {decimal(found.high)})"
        if found.value is not None and found.low is not None and found.high is not None
        else "not measured"
    )
    return ValidationCheck(
        name=check.name,
        verdict=check.verdict(found.low, found.high),
        detail=f"{figure} {shown}, to lie above {check.bound:g}{remedy}",
    )


def _stated(*, holds: bool, fails: bool) -> Verdict:
    return "failed" if fails else "passed" if holds else "not decided"


def _coherent(ordered: Sequence[SteeredDose], ends: tuple[float, float]) -> ValidationCheck:
    """Whether the doses next to 0 are coherent on both sides, by their intervals."""
    nearest = [dose.coherence_estimate for dose in _next_to_zero(ordered)]
    return ValidationCheck(
        name="coherent over a range on both sides of 0",
        verdict=_stated(
            holds=ends[0] < 0 < ends[1]
            and all(each.low is not None and each.low >= COHERENCE_FLOOR for each in nearest),
            fails=len(nearest) < len(_SIDES)
            or any(each.high is None or each.high < COHERENCE_FLOOR for each in nearest),
        ),
        detail=f"coefficients {decimal(ends[0], 'g')} to {decimal(ends[1], 'g')} keep mean "
        f"coherence at or above {COHERENCE_FLOOR:g}; the intervals next to 0 reach down to "
        + ", ".join("nothing" if each.low is None else f"{each.low:.0f}" for each in nearest),
    )


def _next_to_zero(ordered: Sequence[SteeredDose]) -> list[SteeredDose]:
    """The doses next to 0 on either side, as far as there are any."""
    below = [dose for dose in ordered if dose.coefficient < 0][-1:]
    return below + [dose for dose in ordered if dose.coefficient > 0][:1]


def _rises(inside: Sequence[SteeredDose]) -> ValidationCheck:
    """Whether log-odds rise with the dose.

    They do where they surely rise by more than they may have fallen on the way, and do not where
    they surely fall.
    """
    found = [dose.log_odds_interval for dose in inside]
    # NaN where an interval is missing: then neither is shown.
    rise = found[-1].low - found[0].high
    may_fall = _largest([_may_fall(*pair) for pair in combinations(inside, 2)])
    measured = not math.isnan(may_fall)
    means = ", ".join(
        f"{_coefficient(d)}: {decimal(d.log_odds_interval.value, '.1f')}" for d in inside
    )
    up, down = decimal(rise, ".1f"), decimal(may_fall, ".1f")
    sure = f"at least {up} up from end to end, at most {down} down on the way"
    return ValidationCheck(
        name="dose-response rises, as far as its intervals tell",
        verdict=_stated(
            holds=rise > 0 and rise > may_fall,
            fails=measured and not monotone_within_intervals(found),
        ),
        detail=f"{means}; {sure if measured else 'not all measured'}",
    )


def _may_fall(before: SteeredDose, after: SteeredDose) -> float:
    """By how much log-odds may fall from one dose to a later one."""
    return before.log_odds_interval.high - after.log_odds_interval.low


def _may_fall_most(inside: Sequence[SteeredDose]) -> list[float]:
    """The coefficients of the two doses between which log-odds may fall most."""
    pairs = [pair for pair in combinations(inside, 2) if not math.isnan(_may_fall(*pair))]
    most = max(pairs, key=lambda pair: _may_fall(*pair), default=())
    return [dose.coefficient for dose in most]


def _beyond_random(
    name: str, sign: int, dose: SteeredDose, control: Sequence[RandomDose]
) -> ValidationCheck:
    """Whether steering at one end moves the trait further than every random direction does.

    It does where its mean is beyond every random direction's interval, and does not where a random
    direction's mean is beyond its interval. Without a coherent dose at this end there is nothing to
    compare, and the check of coherence says whether that is for certain.
    """
    reached = sign * dose.coefficient > 0
    others = [c.log_odds_interval for c in control if reached and c.coefficient == dose.coefficient]
    own = dose.log_odds_interval
    bound = _largest([sign * _far(other, sign) for other in others])
    furthest = _largest([sign * other.value for other in others])
    mean, low, high = (decimal(each, ".1f") for each in (own.value, own.low, own.high))
    return ValidationCheck(
        name=f"beyond every random direction's interval at the {name} end",
        verdict=_stated(
            holds=sign * own.value > bound,
            fails=furthest >= sign * _far(own, sign),
        ),
        detail=f"log-odds {mean} ({low} to {high}) at {_coefficient(dose)}; the random directions' "
        f"means reach {decimal(sign * furthest, '.1f')}, their intervals "
        f"{decimal(sign * bound, '.1f')}"
        if reached
        else "no coherent coefficient at this end",
    )


def _coefficient(dose: SteeredDose) -> str:
    return decimal(dose.coefficient, "+g") if dose.coefficient else "0"


def _far(interval: Interval, sign: int) -> float:
    """The end of an interval that is further towards the trait, or away from it."""
    return interval.high if sign > 0 else interval.low


def _largest(values: Sequence[float]) -> float:
    """The largest; NaN, which no number exceeds, for none or where one is missing."""
    return float(np.max(values)) if values else math.nan
