"""What `elicit` prints for people."""

from __future__ import annotations

from collections.abc import Sequence

from personavec.data.terminal import show_reading
from personavec.finetune.sets.results import ElicitResults, FlawedResults
from personavec.results import Estimate
from personavec.terminal import (
    Ending,
    Next,
    console,
    log_notes,
    print_table,
    print_text,
    show_ending,
)
from personavec.vectors import bundled_vectors
from personavec.wording import estimated, plural


def show(found: ElicitResults | FlawedResults, model: Sequence[str]) -> None:
    """How questions were read, a table of levels, what was left out, and the last lines.

    `model` are the words that name the model.
    """
    show_reading(found.data)
    if isinstance(found, ElicitResults):
        _show_elicited(found)
    else:
        _show_flawed(found)
    show_ending(Ending(conclusion=conclusion(found), written=found.out, next=_next(found, model)))


def _next(found: ElicitResults | FlawedResults, model: Sequence[str]) -> Next:
    """A screen along the trait where a vector of it is at hand, else a finetune."""
    strong = str(list(found.levels.values())[-1].file)
    if isinstance(found, ElicitResults) and found.trait in bundled_vectors() and not model:
        to = "see how far the strong rows would push the model"
        return Next(to, ("screen", strong, "--vectors", found.trait))
    command = ("finetune", strong, "--out", f"{found.out}-finetune", *model)
    return Next("see what finetuning on the strong rows does", command)


def _show_flawed(found: FlawedResults) -> None:
    rows = [(level, str(of.rows), str(of.file)) for level, of in found.levels.items()]
    print_table(("level", "rows", "file"), rows)
    if found.rejected:
        rejected = f"{found.out}/rejected.jsonl"
        print_text(f"{plural(found.rejected, 'row')} cannot be used: {rejected}")


def conclusion(found: ElicitResults | FlawedResults) -> str:
    """What the sets are, and whether the strong one shows more of the trait than the normal one."""
    if not isinstance(found, ElicitResults):
        return f"The same questions, answered at {plural(len(found.levels), 'level')} of flaws."
    normal, strong = found.levels["normal"], found.levels["strong"]
    own, most = (
        Estimate(of.log_odds, of.log_odds_low, of.log_odds_high)
        if normal.log_odds is not None
        else Estimate(of.mean, of.low, of.high)
        for of in (normal, strong)
    )
    apart = own.high is not None and most.low is not None and most.low > own.high
    shown = f"strong {estimated(most, '.1f')}, normal {estimated(own, '.1f')}"
    if apart:
        return f"The strong rows are more {found.trait} than the normal ones: {shown}."
    return f"The strong rows are not shown to be more {found.trait}: {shown}."


def _show_elicited(found: ElicitResults) -> None:
    rows = []
    for level, of in found.levels.items():
        score = Estimate(of.mean, of.low, of.high)
        log_odds = Estimate(of.log_odds, of.log_odds_low, of.log_odds_high)
        shown = estimated(score, ".1f"), estimated(log_odds, ".1f")
        rows.append((level, str(of.rows), *shown, str(of.file)))
    print_table(("level", "rows", "score", "log-odds", "file"), rows)
    if found.dropped:
        reasons = ", ".join(f"{n} {why}" for why, n in found.dropped.items())
        asked = plural(found.asked, "response")
        console.print(f"of {asked} left out: {reasons}")
    if found.thoughts:
        held = plural(found.thoughts, "response")
        console.print(f"thoughts left out of {held}")
    log_notes(found.notes)
