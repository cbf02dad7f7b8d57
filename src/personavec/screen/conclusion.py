"""What a screen says of its data, in words: headline of the report, end of the command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from personavec.screen.results import RandomControl, ScreenedTrait, ScreenResults
from personavec.wording import capitalised, joined, plural, signed

#: Where training on the data would push: `random` where a random direction shifts as far.
Push: TypeAlias = Literal["toward", "away", "random", "none", "unknown"]

_SAID: dict[Push, str] = {
    "toward": "training on these {rows} would push the model toward {traits}",
    "away": "training on these {rows} would push the model away from {traits}",
    "random": "the mean of all {rows} shifts no further along {traits} than along a random "
    "direction, so it is no evidence that the {rows} as a whole push",
    "none": "the mean of all {rows} shows no push along {traits}",
    "unknown": "for {traits} raw projections are compared with nothing, and say nothing of a push",
}


def conclusion(results: ScreenResults) -> str:
    """How many rows are flagged, and where the data as a whole would push."""
    rows = "pairs" if results.kind == "pair" else "rows"
    said = [*_flagged(results), *_left(results)]
    found = {name: pushes(trait, results.natural) for name, trait in results.traits.items()}
    for push, form in _SAID.items():
        names = [_named(n, results, push) for n in results.traits if found[n] == push]
        if names:
            said.append(form.format(traits=joined(names), rows=rows))
    if results.flagged_any and not {"toward", "away"}.issuperset(found.values()):
        said.append(f"a mean says nothing of single {rows}: read those that are flagged")
    return " ".join(f"{capitalised(each)}." for each in said)


def pushes(trait: ScreenedTrait, natural: str) -> Push:
    """By the interval of the mean, minus the reference's if there is one, and by the control."""
    found = trait.against_reference or trait
    if natural == "none" and trait.against_reference is None:
        return "unknown"
    if found.low is None or found.high is None:
        return "unknown" if found.mean is None else "none"
    if found.low <= 0 <= found.high:
        return "none"
    control = trait.controls.random
    if isinstance(control, RandomControl) and not _beyond(control):
        return "random"
    return "toward" if found.low > 0 else "away"


def _beyond(control: RandomControl) -> bool:
    """Whether the vector shifts further than each random direction, in either direction."""
    own = control.trait.effect
    others = [abs(each.effect) for each in control.directions if each.effect is not None]
    return own is None or abs(own) > max(others, default=0.0)


def _named(name: str, results: ScreenResults, push: Push) -> str:
    """The trait, with its mean in σ of neutral prompts where that says something."""
    trait, reference = results.traits[name], results.reference
    found = trait.against_reference or trait
    if push not in ("toward", "away") or not trait.sigma or found.mean is None:
        return name
    against = ""
    if trait.against_reference is not None and reference is not None:
        against = f" against the reference's {plural(reference.rows, 'row')}"
    return f"{name} ({signed(found.mean / trait.sigma)} σ{against})"


def _flagged(results: ScreenResults) -> Iterable[str]:
    if results.flagged_any is None:
        yield (
            "no row is flagged, as nothing says above which value: give a clean --reference, or "
            "--top, --bottom or --cut"
        )
        return
    each = [f"{t.flagged} for {name}" for name, t in results.traits.items() if t.flagged]
    verb = "is" if results.flagged_any == 1 else "are"
    said = f"{results.flagged_any} of {plural(results.rows, 'row')} {verb} flagged"
    yield f"{said}: {joined(each)}" if len(each) > 1 else said


def _left(results: ScreenResults) -> Iterable[str]:
    """Where rows are flagged by their number: that those left were compared with no line."""
    rule = results.rule or {}
    option = next((option for option in ("top", "bottom") if rule.get(option)), None)
    if option is None or results.flagged_any is None:
        return
    n, end = rule[option], "highest" if option == "top" else "lowest"
    whose = "the" if len(results.traits) == 1 else "each trait's"
    above = {name: trait.left_above for name, trait in results.traits.items()}
    found = [f"{count} above 0 along {name}" for name, count in above.items() if count]
    if found:
        shows = f"of them {joined(found)}"
    else:
        shows = "whatever they show" if None in above.values() else "none of them above 0"
    left = plural(results.rows - results.flagged_any, "row")
    flags = f"{whose} {plural(n, f'{end} row')} and no others"
    yield f"--{option} {n} flags {flags}; the clean file keeps {left}, {shows}"
