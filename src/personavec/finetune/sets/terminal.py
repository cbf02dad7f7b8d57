"""What `elicit` prints for people."""

from __future__ import annotations

from personavec.data.terminal import show_reading
from personavec.finetune.sets.results import ElicitResults, FlawedResults
from personavec.results import Estimate
from personavec.terminal import console, log_notes, print_table
from personavec.wording import estimated, plural


def show(found: ElicitResults | FlawedResults) -> None:
    """How questions were read, a table of levels, and what was left out."""
    show_reading(found.data)
    if isinstance(found, ElicitResults):
        _show_elicited(found)
        return
    rows = [(level, str(of.rows), str(of.file)) for level, of in found.levels.items()]
    print_table(("level", "rows", "file"), rows)
    if found.rejected:
        rejected = f"{found.out}/rejected.jsonl"
        console.print(f"{plural(found.rejected, 'row')} cannot be used: {rejected}", soft_wrap=True)


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
