"""Counts, estimates and changes in words, for lines and tables that people read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from personavec.results import Estimate


#: A hyphen before a number that stands alone, not one within a word or a range.
_HYPHEN = re.compile(r"(?<![\w.)-])-(?=\.?\d)")


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
    value = decimal(found.value, form)
    if found.low is None or found.high is None:
        return value
    low, high = decimal(found.low, form), decimal(found.high, form)
    return f"{value}\n{low} to {high}" if two_lines else f"{value} [{low}, {high}]"


def duration(seconds: float) -> str:
    """In the unit that a person would take: 40 s, 4 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def decimal(value: float, form: str = ".2f") -> str:
    """A number as people read it, with a true minus: "−1.50". What rounds to 0 has no minus."""
    text = f"{value:{form}}"
    if not re.search("[1-9]", text):
        text = text.replace("-", "+" if form.startswith("+") else "")
    return text.replace("-", "−")


def with_minus(text: str) -> str:
    """A stored sentence with a true minus before its numbers."""
    return _HYPHEN.sub("−", text)


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign written out: +1.5, −1.5, 0."""
    text = f"{abs(value):.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    if text == "0":
        return "0"
    return ("−" if value < 0 else "+") + text


def joined(names: Iterable[str], last: str = "and") -> str:
    """Names as a sentence lists them: "a", "a and b", "a, b and c"."""
    *others, end = names
    return f"{', '.join(others)} {last} {end}" if others else end


def capitalised(sentence: str) -> str:
    """The sentence with a capital at its beginning."""
    return sentence[:1].upper() + sentence[1:]


def moved(what: str, difference: Estimate, unit: str, form: str = ".1f") -> str:
    """Whether a difference's interval shows that something rises or falls, and by how much.

    "evil rises by 2.1 nats [1.0, 3.2]", "no change of evil is shown (0.3 nats [−0.4, 1.0])".
    """
    value, low, high = difference.value, difference.low, difference.high
    if value is None:
        return f"{what} was not measured"
    if low is None or high is None:
        return f"{what} changes by {decimal(value, '+' + form)} {unit}, without an interval"
    if low > 0:
        return f"{what} rises by {value:{form}} {unit} [{low:{form}}, {high:{form}}]"
    if high < 0:
        return f"{what} falls by {-value:{form}} {unit} [{-high:{form}}, {-low:{form}}]"
    own, least, most = (decimal(each, form) for each in (value, low, high))
    return f"no change of {what} is shown ({own} {unit} [{least}, {most}])"
