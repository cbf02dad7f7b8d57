"""The controls of a trait on a screen's page: length, and random directions."""

from __future__ import annotations

from markupsafe import Markup

from personavec.report import Content, element, estimate, not_measured, table
from personavec.results import Estimate
from personavec.screen.results import (
    DirectionEffect,
    FlaggedByLength,
    LengthControl,
    MatchedMean,
    NotMeasured,
    RandomControl,
    ScreenedTrait,
)
from personavec.wording import decimal

_WHAT_RANDOM_MEANS = (
    "Random directions at the vector’s layer mean nothing. Compare sizes, whatever the sign: where "
    "one of them shifts as far as the vector, the mean says only that these texts differ from what "
    "they are compared with. No intervals here: the spread of the random directions is the measure."
)


def control_panels(trait: ScreenedTrait, unit: str) -> list[Markup]:
    """What the controls found, or why they were not measured."""
    length, random = trait.controls.length, trait.controls.random
    found: list[Markup] = []
    if isinstance(length, NotMeasured):
        found.append(_why("Length", length))
    else:
        found += _length(trait, length, unit)
    if isinstance(random, NotMeasured):
        found.append(_why("Random directions", random))
    else:
        found += _random(random)
    return found


def _why(what: str, control: NotMeasured) -> Markup:
    return element("p", f"{what}: not measured, {control.why}.")


def _length(trait: ScreenedTrait, control: LengthControl, unit: str) -> list[Markup]:
    found = [
        element(
            "p",
            "Rank correlation of the value with the response’s length: ",
            estimate(control.spearman, "+.2f"),
            ".",
        )
    ]
    if control.flags_by_length:
        found.append(_flags_by_length(control.flags_by_length))
    if isinstance(control.matched, MatchedMean):
        found.append(_matched(trait, control.matched, unit))
    return found


def _flags_by_length(flags: tuple[FlaggedByLength, ...]) -> Markup:
    return table(
        ("response tokens", "rows", "flagged"),
        [
            (
                f"{row['from']} to {row['to']}",
                str(row["n"]),
                estimate(Estimate(row["mean"], row["low"], row["high"]), ".1%"),
            )
            for row in flags
        ],
        "numbers",
    )


def _matched(trait: ScreenedTrait, matched: MatchedMean, unit: str) -> Markup:
    against = trait.against_reference
    return element(
        "p",
        f"Mean minus reference, in {unit}: ",
        not_measured() if against is None else estimate(against.estimate, "+.2f"),
        "; minus reference rows of like length: ",
        estimate(matched.estimate, "+.2f"),
        f" (rows without a counterpart of their length: {matched.without_match}).",
    )


def _random(control: RandomControl) -> list[Markup]:
    rows = [
        ("the vector", *_effect(control.trait)),
        *(
            (f"random direction {i}", *_effect(direction))
            for i, direction in enumerate(control.directions, start=1)
        ),
    ]
    head = ["direction", "mean shift (standard deviations of the rows)"]
    if control.trait.share_over is not None:
        head.append("rows above the reference’s 95th percentile")
    return [table(head, rows, "numbers"), element("p", _WHAT_RANDOM_MEANS)]


def _effect(found: DirectionEffect) -> list[Content]:
    effect = not_measured() if found.effect is None else decimal(found.effect, "+.2f")
    return [effect, *([] if found.share_over is None else [f"{found.share_over:.1%}"])]
