"""What `elicit` prints for people."""

from __future__ import annotations

from rich.table import Table

from personavec.data.terminal import show_reading
from personavec.finetune.sets.results import ElicitResults, FlawedResults
from personavec.results import Estimate
from personavec.terminal import console, log_notes
from personavec.wording import estimated, plural


def show(found: ElicitResults | FlawedResults) -> None:
    """How questions were read, a table of levels, and what was left out."""
    show_reading(found.data)
    if isinstance(found, ElicitResults):
        _show_elicited(found)
        return
    table = Table("level", "rows", "file")
    for level, of in found.levels.items():
        table.add_row(level, str(of.rows), str(of.file))
    console.print(table)
    if found.rejected:
        console.print(f"{plural(found.rejected, 'row')} cannot be used: {found.out}/rejected.jsonl")


def _show_elicited(found: ElicitResults) -> None:
    table = Table("level", "rows", "score", "log-odds", "file")
    for level, of in found.levels.items():
        score = Estimate(of.mean, of.low, of.high)
        log_odds = Estimate(of.log_odds, of.log_odds_low, of.log_odds_high)
        shown = estimated(score, ".1f"), estimated(log_odds, ".1f")
        table.add_row(level, str(of.rows), *shown, str(of.file))
    console.print(table)
    if found.dropped:
        reasons = ", ".join(f"{n} {why}" for why, n in found.dropped.items())
        asked = plural(found.asked, "response")
        console.print(f"of {asked} left out: {reasons}")
    if found.thoughts:
        held = plural(found.thoughts, "response")
        console.print(f"thoughts left out of {held}")
    log_notes(found.notes)
