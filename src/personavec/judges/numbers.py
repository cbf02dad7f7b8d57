"""What a judge's reply says as a number from 0 to 100: from its token lists, or from its text.

A tokenizer may write 85 as one token or as two. The first token's list shows which: a number of
several digits in it is a token of its own. Where there is none, 8 may be the beginning of 85, and
further lists, each behind the digits before it, say how it goes on.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from personavec.judges.base import State

REFUSAL = "REFUSAL"
#: Less probability than this on numbers is no answer (the reference project's threshold).
MIN_MASS = 0.25
#: Numbers are read to their end until less than this share of their probability is open.
_OPEN = 0.05


@dataclass(frozen=True)
class Grade:
    """One number from a judge, or why there is none."""

    state: State
    value: float | None = None
    """0 to 100."""
    mass: float | None = None
    """The probability, or the share of samples, that the reply is a number."""
    spread: float | None = None
    """The standard deviation of sampled values; None where probabilities were read."""
    why: str | None = None


def from_probabilities(
    numbers: Mapping[int, float], refusal: float, *, open_mass: float = 0.0, least: float = MIN_MASS
) -> Grade:
    """The expected number, weighted by probability.

    `open_mass` is the probability of numbers whose end is unknown: it counts as numbers and has
    no part in the expectation. A refusal likelier than any number is a refusal.
    """
    known = sum(numbers.values())
    mass = known + open_mass
    if refusal > mass:
        return Grade("refusal", mass=mass)
    if mass < least:
        return Grade("unscored", mass=mass, why=f"only {mass:.0%} of the reply is a number")
    if known <= mass / 2:
        return Grade("unscored", mass=mass, why="the reply's digits could not be followed")
    value = math.fsum(n * p for n, p in numbers.items()) / known
    return Grade("scored", min(100.0, max(0.0, value)), mass)


def from_texts(texts: Sequence[str]) -> Grade:
    """The mean of sampled replies and their spread; too few numbers among them are no answer."""
    found = [parse(text) for text in texts]
    values = [value for value in found if isinstance(value, float)]
    refusals = found.count(REFUSAL)
    mass = len(values) / len(texts)
    if refusals > len(values):
        return Grade("refusal", mass=mass)
    if mass < MIN_MASS:
        return Grade("unscored", mass=mass, why=f"{len(values)} of {len(texts)} gave a number")
    return Grade("scored", statistics.fmean(values), mass, statistics.pstdev(values))


def parse(text: str) -> float | str | None:
    """The number that a reply gives, REFUSAL, or None. Two numbers are none."""
    if REFUSAL in text:
        return REFUSAL
    plain = re.sub(r"(/|out of)\s*100\b", "", text)
    found = {float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", plain)}
    value = found.pop() if len(found) == 1 else -1.0
    return value if 0 <= value <= 100 else None


def token_list(choice: Mapping[str, Any], position: int = 0) -> dict[str, float] | None:
    """Probability of each listed token at a position of a completion; None where none is listed."""
    content = _tokens(choice)
    listed = content[position].get("top_logprobs") if position < len(content) else None
    found = {
        t["token"]: math.exp(min(0.0, t["logprob"]))
        for t in (reversed(listed) if isinstance(listed, list) else ())
        if isinstance(t, dict) and isinstance(t.get("token"), str) and _is_logprob(t.get("logprob"))
    }
    return found or None


def _tokens(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a completion says of each of its tokens, up to where it says nothing."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return list(takewhile(_is_object, content)) if isinstance(content, list) else []


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_logprob(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def refusal_mass(tokens: Mapping[str, float]) -> float:
    """The probability of REFUSAL, by its first token, of which one letter is not enough."""
    starts = (p for t, p in tokens.items() if len(t.strip()) > 1 and REFUSAL.startswith(t.strip()))
    return sum(starts)


@dataclass
class NumberTree:
    """Token lists behind the digits that lead to them; the root's is the reply's first.

    A number that is followed by anything but a digit has ended: "85", "85." and "85/100" are 85.
    `ended` holds numbers behind which a reply stopped: many servers list nothing there.
    """

    lists: dict[str, dict[str, float]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)

    def add(self, choice: Mapping[str, Any], room: int) -> None:
        """Take in the lists that a completion of at most `room` tokens passed through a number."""
        prefix = ""
        content = _tokens(choice)
        for position, token in enumerate(content):
            listed = token_list(choice, position)
            if listed is None:
                return
            self.lists.setdefault(prefix, _digits(listed.items()))
            digits = str(token.get("token", "")).strip()
            if not _is_digits(digits) or not _is_number(prefix + digits):
                return
            prefix += digits
        if prefix and choice.get("finish_reason") == "stop" and len(content) < room:
            self.ended.add(prefix)

    def numbers(self) -> tuple[dict[int, float], float]:
        """The probability of each number that is known to its end, and of all that are not."""
        found: dict[int, float] = defaultdict(float)
        still_open = 0.0
        ways = [("", 1.0)]
        while ways:
            prefix, probability = ways.pop()
            if prefix in self.lists:
                following = self.lists[prefix]
                if prefix:
                    found[int(prefix)] += probability * max(0.0, 1 - sum(following.values()))
                ways += [
                    (prefix + digits, probability * p)
                    for digits, p in following.items()
                    if _is_number(prefix + digits)
                ]
            elif self._is_whole(prefix):
                found[int(prefix)] += probability
            else:
                still_open += probability
        return dict(found), still_open

    def is_open(self) -> bool:
        """Whether enough of the probability goes on in an unknown way to be worth asking."""
        found, still_open = self.numbers()
        mass = sum(found.values()) + still_open
        return mass >= MIN_MASS and still_open > _OPEN * mass

    def _is_whole(self, number: str) -> bool:
        """Whether no digit follows: no longer number exists, or it would be a token itself."""
        as_tokens = any(len(digits) > 1 for digits in self.lists[""])
        longest = number == "0" or (len(number) > 1 and number != "10")
        return as_tokens or longest or number in self.ended


def _digits(tokens: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Tokens of digits alone, with and without spaces around them together."""
    found: dict[str, float] = defaultdict(float)
    for token, probability in tokens:
        if _is_digits(token.strip()):
            found[token.strip()] += probability
    return dict(found)


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_number(digits: str) -> bool:
    """An integer from 0 to 100 as it is written: no zeros before it."""
    return str(int(digits)) == digits and int(digits) <= 100
