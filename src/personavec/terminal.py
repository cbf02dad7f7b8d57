"""What is printed for people: nothing that it quotes can steer the terminal.

Names of columns, values of data, specs and errors hold whatever their authors wrote.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import sys
import textwrap
import webbrowser
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment
from rich.table import Table

#: Control characters but tab and line feed, and what changes the direction of text.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

#: Between two columns of a table.
_GAP = 2

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


def beginning(text: object, width: int) -> str:
    """The beginning of a text on one line, so many columns wide, up to a word's end."""
    line = shown(" ".join(("" if text is None else str(text)).split()))
    if cell_len(line) <= width:
        return line
    cut = chop_cells(line, width)[0]
    return f"{cut.rpartition(' ')[0] or cut} […]"


def log(message: str) -> None:
    """A line for people, on stderr; on a terminal no word is cut at its edge."""
    text = shown(message)
    if sys.stderr.isatty():
        text = wrapped(text, shutil.get_terminal_size().columns)
    print(text, file=sys.stderr)


def wrapped(text: str, width: int) -> str:
    """A text in lines of a width, each broken between words; a longer word has its own line."""
    lines = [
        textwrap.wrap(
            line,
            width,
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
            drop_whitespace=True,
        )
        or [""]
        for line in text.split("\n")
    ]
    return "\n".join(part for own in lines for part in own)


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


def print_text(text: str, style: str = "") -> None:
    """Print a text that may hold paths: these stay whole, on a line that may be longer."""
    console.print(wrapped(text, console.width), style=style, soft_wrap=True)


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    styles: Sequence[str] = (),
) -> None:
    """Print a table that fits the width: as it is, turned, in parts, or row by row.

    `styles` has one for each row. Turned, its rows are the columns. No word is cut: one that is
    longer than the width, such as a path, has a line of its own.
    """
    if title:
        console.print(title, style="bold")
    given = [*styles, *[""] * (len(rows) - len(styles))]
    turned = [list(column) for column in zip(headers, *rows, strict=True)]
    whole = [headers, *rows]
    # Rather a table whose lines fit as they are than one that breaks them.
    for parts in (_lines, str.split):
        if _total(_widths(whole, parts)) <= console.width:
            console.print(_table(whole, console.width, given))
            break
        if _total(_widths(turned, parts)) <= console.width:
            console.print(_table(turned, console.width))
            break
    else:
        if parted := _parted(whole, console.width):
            for part in parted[:-1]:
                console.print(_table(part, console.width, given))
                console.print()
            console.print(_table(parted[-1], console.width, given))
        else:
            for row, style in zip(rows, given, strict=True):
                _print_record(headers, row, style)
    console.print()


def _parted(whole: Sequence[Sequence[str]], width: int) -> list[list[list[str]]]:
    """A table's columns in several tables, each with the first column; none if one has no room."""
    first = _widths(whole, str.split)[0]
    lines, words = (_widths(whole, parts)[1:] for parts in (_lines, str.split))
    # Rather more tables than lines of cells that are broken.
    most = width - first - _GAP
    wanted = [line if line <= most else word for line, word in zip(lines, words, strict=True)]
    groups: list[list[int]] = []
    room = 0
    for number, own in enumerate(wanted, start=1):
        if own > most:
            return []
        if own + _GAP > room:
            groups.append([])
            room = width - first
        groups[-1].append(number)
        room -= own + _GAP
    return [[[row[n] for n in (0, *group)] for row in whole] for group in groups]


def _lines(text: str) -> list[str]:
    return text.split("\n")


def _widths(
    rows: Sequence[Sequence[str]], parts: Callable[[str], Sequence[str]] = _lines
) -> list[int]:
    """How wide each column is that holds its longest part."""
    return [max(_longest(parts(cell)) for cell in column) for column in zip(*rows, strict=True)]


def _longest(parts: Sequence[str]) -> int:
    return max((cell_len(shown(part)) for part in parts), default=0)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _fitted(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Widths of columns that hold each word, of which the widest gave up what is too much."""
    whole, least = _widths(rows), _widths(rows, str.split)
    for most in range(max(whole, default=0), 0, -1):
        found = [max(a, min(b, most)) for a, b in zip(least, whole, strict=True)]
        if _total(found) <= width:
            return found
    return least


def _table(whole: Sequence[Sequence[str]], width: int, styles: Sequence[str] = ()) -> Table:
    """A table of rows, of which the first is its head."""
    found = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    # Given each width, since rich would take room from words before it took it from long texts.
    for header, own in zip(whole[0], _fitted(whole, width), strict=True):
        found.add_column(header, overflow="fold", width=own)
    for number, row in enumerate(whole[1:]):
        found.add_row(*row, style=styles[number] if styles else None)
    return found


def _print_record(headers: Sequence[str], row: Sequence[str], style: str) -> None:
    """A row as lines: its first cell, and below it every other one with its header."""
    print_text(f"{headers[0]}: {row[0]}", style)
    for header, cell in zip(headers[1:], row[1:], strict=True):
        print_text(f"  {header}: {' '.join(cell.split())}", style)


@dataclass(frozen=True)
class Next:
    """A command that may come next."""

    to: str
    """What it is for, as in "see what it does"."""
    command: Sequence[str]
    """Its words."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The last lines of a command: what it concludes, where that is, what may come next."""

    conclusion: str = ""
    written: Path | None = None
    """The report, or what else was written."""
    next: Next | None = None


def show_ending(ending: Ending) -> None:
    """Print the last lines; paths and commands stay whole, so that they can be pasted."""
    if ending.conclusion:
        console.print(ending.conclusion, style="bold")
    if ending.written is not None:
        kind = "report" if ending.written.suffix == ".html" else "written to"
        console.print(f"{kind}: {ending.written}", soft_wrap=True)
    if ending.next is not None:
        console.print(f"next, {ending.next.to}:")
        for line in command_lines(ending.next.command, console.width):
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
