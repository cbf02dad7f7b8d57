"""Progress with time left, on stderr; quieter where stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as RichProgress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from personavec import terminal
from personavec.wording import duration


class _Rate(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


class Bar:
    """One task's bar."""

    def advance(self, n: int) -> None:
        """Count `n` more items as done."""

    def found(self, n: int) -> None:
        """Count `n` items that were done before: they say nothing of the rate."""


class _LiveBar(Bar):
    def __init__(self, rich: RichProgress, label: str, total: int):
        self._rich, self._task = rich, rich.add_task(label, total=total)

    def advance(self, n: int) -> None:
        self._rich.advance(self._task, n)

    def found(self, n: int) -> None:
        done = self._rich.tasks[self._task].completed + n
        self._rich.reset(self._task, completed=int(done))


#: Where no terminal redraws: seconds between two lines of a task; and after how many the first
#: comes if a share of the task is done by then, so that the time left can be told.
_LATER, _FIRST, _SHARE = 30, 5, 0.05


class _LineBar(Bar):
    """Where no terminal redraws: a line after a few seconds, now and then, and at the end.

    A task of which all was found done has none.
    """

    def __init__(self, label: str, total: int):
        self._label, self._total, self._done, self._found = label, total, 0, 0
        self._start, self._told = time.monotonic(), False
        self._next = self._start + _LATER

    def found(self, n: int) -> None:
        self._done += n
        self._found += n
        if n > 0 and self._done < self._total:
            terminal.log(f"{self._label}: continuing, {self._done} of {self._total} done")

    def advance(self, n: int) -> None:
        self._done += n
        now = time.monotonic()
        if self._done >= self._total or now >= self._next or self._can_tell(now):
            self._told = True
            self._next = now + _LATER
            spent = now - self._start
            new = self._done - self._found
            left = spent * (self._total - self._done) / max(1, new)
            rate = new / max(spent, 1e-3)
            terminal.log(
                f"{self._label} {self._done}/{self._total}, {spent:.0f} s, {rate:.1f}/s"
                + (f", about {duration(left)} left" if self._done < self._total else "")
            )

    def _can_tell(self, now: float) -> bool:
        """Whether it is time for the first line."""
        new, all_new = self._done - self._found, self._total - self._found
        return not self._told and now - self._start >= _FIRST and new >= _SHARE * all_new


class Progress:
    """Where a long job reports how far it is."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet

    def say(self, message: str) -> None:
        """A line for people."""
        if not self.quiet:
            terminal.log(message)

    def stages(self, *names: str) -> None:
        """The stages of the whole, before the first begins; names that are empty are left out."""
        self.say(f"stages: {', '.join(filter(None, names))}")

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        """A bar for `total` items while the context lasts."""
        if self.quiet:
            yield Bar()
        elif not sys.stderr.isatty():
            yield _LineBar(label, total)
        else:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            with RichProgress(*columns, console=terminal.make_console(stderr=True)) as rich:
                yield _LiveBar(rich, label, total)
