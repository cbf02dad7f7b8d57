"""Counts and estimates in words, for lines and tables that people read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from personavec.results import Estimate


def plural(n: int, noun: str, many: str = "") -> str:
    """A number of things: "1 row", "2 rows"; `many` is the plural where it is not noun + s."""
    return f"{n} {noun}" if n == 1 else f"{n} {many or noun + 's'}"


def estimated(
    found: Estimate, form: str = ".2f", *, two_lines: bool = False, missing: str = "–"
) -> str:
    """An estimate with its interval: "1.50 [1.20, 1.80]".

    `two_lines` puts the interval below the value, as "1.20 to 1.80", for narrow columns. An
    estimate without an interval is its value, and one without a value is `missing`.
    """
    if found.value is None:
        return missing
    value = f"{found.value:{form}}"
    if found.low is None or found.high is None:
        return value
    low, high = f"{found.low:{form}}", f"{found.high:{form}}"
    return f"{value}\n{low} to {high}" if two_lines else f"{value} [{low}, {high}]"


def duration(seconds: float) -> str:
    """In the unit that a person would take: 40 s, 4 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
