"""What `evaluate` prints for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Column, Table

from personavec.data.terminal import show_reading
from personavec.evaluate.report import described
from personavec.evaluate.results import CueResults, EvaluateResults
from personavec.rollouts import ExpressionDifference
from personavec.terminal import console
from personavec.wording import estimated, plural


def show(found: EvaluateResults, report: Path | None = None) -> None:
    """Traits, differences and capability; `report` is the page, where one is kept."""
    show_reading(found.data)
    console.print(f"model: {described(found)}")
    if found.compare_to:
        console.print(f"other: {described(found.compare_to)}")
    if found.cue:
        _show_cues(found.cue)
    console.print(_traits_table(found))
    if found.compare_to:
        console.print(_differences_table(found.compare_to.differences, "model minus other"))
    if cue := found.cue:
        console.print(_differences_table(cue.differences, "model with cues minus without"))
        if both := cue.compare_to:
            title = "model minus other, both with cues"
            console.print(_differences_table(both.differences, title))
    if found.capability:
        console.print(_capability_table(found))
    where = f"; report: {report}" if report else "; --out FOLDER writes a report"
    console.print(f"{found.seconds:.0f} s{where}")


def _show_cues(cue: CueResults) -> None:
    console.print(
        f"cues: {plural(cue.system_prompts, 'distinct system prompt')} and "
        f"{plural(cue.opening_turns, 'distinct opening')} in "
        f"{plural(cue.rows, 'row')} ({cue.rejected} unusable), {cue.used} used"
    )


def _traits_table(found: EvaluateResults) -> Table:
    table = Table(
        Column("trait", no_wrap=True),
        *("", "score", "above 50", "log-odds"),
        Column("coherence", no_wrap=True),
        *("refused", "n"),
    )
    for name in found.traits:
        for who, traits in found.measured_for("model", "other", ", cues"):
            of = traits[name]
            table.add_row(
                name,
                who,
                estimated(of.estimate("mean"), ".1f", two_lines=True),
                estimated(of.estimate("share_above_50"), ".0%", two_lines=True),
                estimated(of.estimate("log_odds"), ".1f", two_lines=True),
                estimated(of.estimate("coherence"), ".1f", two_lines=True),
                "–" if of.refusals is None else str(of.refusals),
                ", ".join([str(of.n), *(f"{n} {state}" for state, n in of.lost.items())]),
            )
    return table


def _differences_table(differences: Mapping[str, ExpressionDifference], title: str) -> Table:
    table = Table(
        *("trait", "score", "log-odds", "questions", "for half the interval"),
        title=title,
        title_justify="left",
    )
    for name, of in differences.items():
        table.add_row(
            name,
            *(estimated(each, ".1f", two_lines=True) for each in (of.mean, of.log_odds)),
            str(of.questions),
            str(of.questions_for_half_width),
        )
    return table


def _capability_table(found: EvaluateResults) -> Table:
    table = Table("task", "", "right", "chance", "items")
    groups = [("model", found.capability)]
    if found.compare_to:
        groups.append(("other", found.compare_to.capability))
    for task in found.capability:
        for who, scores in groups:
            of = scores[task]
            chance = "" if of.chance is None else f"{of.chance:.0%}"
            right = estimated(of.estimate, ".0%", two_lines=True)
            table.add_row(task, who, right, chance, str(of.n))
    return table
