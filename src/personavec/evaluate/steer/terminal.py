"""What `steer` prints for people: answers as they are written, side by side where they fit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from personavec.evaluate.steer.choice import ChosenCoefficients, said
from personavec.evaluate.steer.results import PROMPTED, SteerResults
from personavec.evaluate.steer.writing import AnswerSoFar
from personavec.terminal import AWAY, TOWARD, Ending, console, show_ending, shown, trait_style
from personavec.vectors import PersonaVector
from personavec.wording import decimal, plural

#: Columns of a terminal that an answer needs beside others.
_NARROWEST = 36
#: Seconds between two pictures of answers that are written.
_EVERY = 0.1


class AnswerScreen:
    """Shows every question's answers together: while they grow on a terminal, whole in a pipe."""

    def __init__(self, to: Console, trait: str):
        self._to, self._trait = to, trait
        self._left: dict[str, dict[str, AnswerSoFar]] = {}
        """The answers by id, of each question that is still to be shown, in order."""
        self._live: Live | None = None
        self._drawn = 0.0

    def take(self, answer: AnswerSoFar) -> None:
        """Show an answer as it is now; see `steer.run`."""
        self._left.setdefault(answer.question, {})[answer.id] = answer
        if answer.question != next(iter(self._left)):
            return  # It waits until the questions before it are done.
        while self._left and self._show(question := next(iter(self._left))):
            del self._left[question]

    def close(self) -> None:
        """Leave on the terminal what was written, also after an error."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show(self, question: str) -> bool:
        """Draw a question's answers, if it is time; True once they have all ended."""
        answers = list(self._left[question].values())
        ended = all(a.answer is not None for a in answers)
        if not any(a.pieces or a.answer for a in answers):
            return False
        if ended or (self._to.is_terminal and time.monotonic() - self._drawn > _EVERY):
            self._draw(_question(question, answers, self._trait, self._to.width), ended=ended)
        return ended

    def _draw(self, found: RenderableType, *, ended: bool) -> None:
        self._drawn = time.monotonic()
        if not self._to.is_terminal:
            self._to.print(found)
            return
        if self._live is None:
            self._live = Live(console=self._to, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        self._live.update(found, refresh=True)
        if ended:
            self.close()


@contextmanager
def answers_shown(trait: str) -> Iterator[AnswerScreen]:
    """A screen whose `take` is for `steer.run` to call, within this context."""
    screen = AnswerScreen(console, trait)
    try:
        yield screen
    finally:
        screen.close()


def show_choice(vector: PersonaVector, model: str, chosen: ChosenCoefficients) -> None:
    """What answers, how it is steered, and why so, before the first answer."""
    why = f": {chosen.why}" if chosen.why else ""
    once = chosen.values in ((1.0,), (-1.0,))
    times = f"{said(chosen.values)} {'time' if once else 'times'}"
    console.print(f"{model}, with the {vector.trait} vector added {times}{why}.\n")


def show_end(found: SteerResults, max_tokens: int, ending: Ending) -> None:
    """What was cut, what readings and colours mean, and what may come next."""
    if cut := sum(answer.cut for answer in found.answers):
        console.print(
            f"{cut} of {plural(len(found.answers), 'answer')} "
            f"{'was' if cut == 1 else 'were'} cut at {plural(max_tokens, 'token')}; "
            f"--max-tokens {4 * max_tokens} shows more."
        )
    if any(answer.sigma is not None for answer in found.answers):
        trait = shown(found.trait)
        console.print(
            Text.assemble(
                "σ: how far an answer reads from neutral ones along the vector, what steering adds "
                "included. ",
                ("Orange and +", TOWARD),
                f": toward {trait}; ",
                ("blue and −", AWAY),
                ": away from it.",
            )
        )
    show_ending(ending)


def _question(
    question: str, answers: Sequence[AnswerSoFar], trait: str, width: int
) -> RenderableType:
    """A question with its answers, in as many columns as have room."""
    cells = [_answer(answer, trait) for answer in answers]
    columns = max(1, min(len(cells), (width + 3) // (_NARROWEST + 3)))
    grid = Table.grid(padding=(0, 3, 0, 0), expand=True)
    for _ in range(columns):
        grid.add_column(ratio=1, overflow="fold")
    for start in range(0, len(cells), columns):
        row = cells[start : start + columns]
        grid.add_row(*row, *[""] * (columns - len(row)))
        grid.add_row()
    return Group(Text(shown(question), "bold"), "", grid)


def _answer(answer: AnswerSoFar, trait: str) -> RenderableType:
    body = Text(overflow="fold")
    for piece in answer.pieces:
        body.append(shown(piece.text), trait_style(piece.sigma))
    if answer.answer and answer.answer.cut:
        body.append("… (cut)", "dim")
    state = answer.answer.state if answer.answer else "answered"
    if state != "answered":
        body = Text(f"({state})")
    return Group(_heading(answer, trait), body, _reading(answer))


def _heading(answer: AnswerSoFar, trait: str) -> Text:
    """The coefficient, and in words and colour what it does."""
    c = answer.coefficient
    if answer.condition == PROMPTED:
        return Text(f"unsteered, told to be {shown(trait)}", "bold")
    if not c:
        return Text("0: unsteered", "bold")
    does = f"{'toward' if c > 0 else 'away from'} {shown(trait)}"
    return Text(f"{decimal(c, '+g')}: {does}", f"bold {TOWARD if c > 0 else AWAY}")


def _reading(answer: AnswerSoFar) -> Text:
    sigma = answer.answer.sigma if answer.answer else None
    return Text(
        "" if sigma is None else f"reads {decimal(sigma, '+.1f')} σ", trait_style(sigma) or "dim"
    )
