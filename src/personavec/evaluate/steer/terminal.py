"""What `steer` prints for people."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from personavec.data.terminal import show_reading
from personavec.evaluate.steer.results import SteerResults
from personavec.terminal import console


def show(found: SteerResults, out: Path | None = None) -> None:
    """A table of answers for every question; `out` is the file that holds them, if any."""
    show_reading(found.data)
    for question in dict.fromkeys(answer.question for answer in found.answers):
        table = Table("steering", "answer", title=question, title_justify="left", show_lines=True)
        for answer in found.answers:
            if answer.question == question:
                shown = "(failed)" if answer.state == "failed" else answer.response
                table.add_row(answer.condition, shown)
        console.print(table)
    if out:
        console.print(f"written to {out}")
