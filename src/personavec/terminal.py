"""What is printed for people: nothing that it quotes can steer the terminal.

Names of columns, values of data, specs and errors hold whatever their authors wrote.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import sys
import webbrowser
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

#: Control characters but tab and line feed, and what changes the direction of text.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

#: Toward a trait is orange and away from it blue, here as in reports and on the page.
TOWARD, AWAY = "#d9661f", "#2a82c7"


def trait_style(sigma: float | None) -> str:
    """How a text is shown whose reading along a trait is so many sigma: coloured from 1 on.

    Colour must not be the only sign: a word or a number with its sign stands beside the text.
    """
    if sigma is None or not abs(sigma) >= 1:
        return ""
    colour = TOWARD if sigma > 0 else AWAY
    return f"bold {colour}" if abs(sigma) >= 4 else colour


def shown(text: str) -> str:
    """The text with each character that could steer a terminal written out, as \\x1b."""
    text = text.encode(errors="backslashreplace").decode()
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def shown_json(value: Any) -> str:
    """Strict JSON on one line, in which such characters are escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text = text.encode(errors="backslashreplace").decode()
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def log(message: str) -> None:
    """A line for people, on stderr."""
    print(shown(message), file=sys.stderr)


def log_notes(notes: Iterable[str]) -> None:
    """What a reader must know before believing the results, on stderr."""
    for note in notes:
        log(f"note: {note}")


def print_json(value: dict[str, Any], *, flush: bool = False) -> None:
    """Exactly one JSON object on stdout."""
    print(shown_json(value), flush=flush)


def make_console(*, stderr: bool = False) -> Console:
    """A console that prints texts as they are: without markup, highlights or control characters."""
    found = _Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    found.push_render_hook(_Shown())
    return found


def reader_left() -> bool:
    """Has whoever read stdout through a pipe closed it?"""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def drop_output() -> None:
    """Write nothing more to stdout, not even what is still buffered."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error to the command line, which ends quietly."""
        raise


class _Shown(RenderHook):
    """Writes out what would steer the terminal, in tables as in lines."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Cleaned(each) for each in renderables]


class _Cleaned:
    def __init__(self, inner: ConsoleRenderable):
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._inner, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)


#: Tables for people go here; with --json everything but the object goes to stderr.
console = make_console()


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The last lines of a command: what it concludes, where that is, what may come next."""

    conclusion: str = ""
    written: Path | None = None
    """The report, or what else was written."""
    command: Sequence[str] = ()
    """Words of the command that may come next."""
    to: str = ""
    """What that command is for: "see what it does"."""


def show_ending(ending: Ending) -> None:
    """Print the last lines; paths and commands stay whole, so that they can be pasted."""
    if ending.conclusion:
        console.print(ending.conclusion, style="bold")
    if ending.written is not None:
        kind = "report" if ending.written.suffix == ".html" else "written to"
        console.print(f"{kind}: {ending.written}", soft_wrap=True)
    if ending.command:
        console.print(f"next, {ending.to}:")
        for line in command_lines(ending.command, console.width):
            console.print(line, soft_wrap=True)


def command_lines(words: Sequence[str], width: int) -> list[str]:
    """A command that a shell takes as it is, indented, over several lines where it is too long."""
    lines = ["  personavec"]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) + 3 > width:
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return lines


def open_report(report: Path) -> None:
    """Open a report in the browser; where there is none, say where the report is."""
    try:
        opened = webbrowser.open(report.resolve().as_uri())
    except (webbrowser.Error, OSError):
        opened = False
    if not opened:
        log(f"no browser opens here; the report is {report}")
