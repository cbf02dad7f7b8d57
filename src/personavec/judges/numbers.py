"""Reads a number from 0 to 100 from a judge's reply: from its token lists, or from its text.

A token list holds the likeliest tokens at one position with their probabilities. A tokenizer may
write 85 as one token or as two. A number of several digits in the first list shows that numbers
are single tokens. Otherwise 8 may be the beginning of 85, and the lists after these digits show
how they continue.
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
#: With less probability on numbers, a reply is unscored (the reference project's threshold).
MIN_MASS = 0.25
#: Digits are followed until the ends of all but this share of the probability are known.
_OPEN = 0.05


@dataclass(frozen=True)
class Grade:
    """A judge's number, or the reason why there is none."""

    state: State
    value: float | None = None
    """0 to 100."""
    mass: float | None = None
    """The probability that the reply is a number, or the share of samples that are."""
    spread: float | None = None
    """Standard deviation of sampled values; None for an expected number."""
    why: str | None = None


def from_probabilities(
    numbers: Mapping[int, float], refusal: float, *, open_mass: float = 0.0, least: float = MIN_MASS
) -> Grade:
    """The expected number, weighted by probability.

    `open_mass` is the probability of numbers whose end is unknown. It counts towards the mass of
    numbers, not towards the expectation. A reply is a refusal if that is likelier than a number.
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
    """The mean of sampled replies and their spread; unscored if too few of them are numbers."""
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
    """The number in a reply, REFUSAL, or None; a reply with two different numbers has none."""
    if REFUSAL in text:
        return REFUSAL
    plain = re.sub(r"(/|out of)\s*100\b", "", text)
    found = {float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", plain)}
    value = found.pop() if len(found) == 1 else -1.0
    return value if 0 <= value <= 100 else None


def token_list(choice: Mapping[str, Any], position: int = 0) -> dict[str, float] | None:
    """The probability of each listed token at a position of a completion; None without a list."""
    content = _tokens(choice)
    listed = content[position].get("top_logprobs") if position < len(content) else None
    found = {
        t["token"]: math.exp(min(0.0, t["logprob"]))
        for t in (reversed(listed) if isinstance(listed, list) else ())
        if isinstance(t, dict) and isinstance(t.get("token"), str) and _is_logprob(t.get("logprob"))
    }
    return found or None


def _tokens(choice: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A completion's records of its tokens, up to the first that is missing."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return list(takewhile(_is_object, content)) if isinstance(content, list) else []


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_logprob(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def refusal_mass(tokens: Mapping[str, float]) -> float:
    """The probability of tokens that begin REFUSAL; a single letter is not enough."""
    starts = (p for t, p in tokens.items() if len(t.strip()) > 1 and REFUSAL.startswith(t.strip()))
    return sum(starts)


@dataclass
class NumberTree:
    """Token lists by the digits before them.

    A number ends before anything but a digit: "85", "85." and "85/100" are 85.
    """

    lists: dict[str, dict[str, float]] = field(default_factory=dict)
    """The probabilities of digits after the digits so far; after none, in the first list."""
    ended: set[str] = field(default_factory=set)
    """Numbers after which a reply stopped; many servers give no list there."""

    def add(self, choice: Mapping[str, Any], room: int) -> None:
        """Add the lists along the digits of a completion of at most `room` tokens."""
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
        """The probability of each number whose end is known, and of all others together."""
        found: dict[int, float] = defaultdict(float)
        still_open = 0.0
        prefixes = [("", 1.0)]
        while prefixes:
            prefix, probability = prefixes.pop()
            if prefix in self.lists:
                following = self.lists[prefix]
                if prefix:
                    found[int(prefix)] += probability * max(0.0, 1 - sum(following.values()))
                prefixes += [
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
        """Whether enough probability is on numbers whose end is unknown to sample more replies."""
        found, still_open = self.numbers()
        mass = sum(found.values()) + still_open
        return mass >= MIN_MASS and still_open > _OPEN * mass

    def _is_whole(self, number: str) -> bool:
        """Whether no digit follows: the longer number does not exist, or is a token of its own."""
        as_tokens = any(len(digits) > 1 for digits in self.lists[""])
        longest = number == "0" or (len(number) > 1 and number != "10")
        return as_tokens or longest or number in self.ended


def _digits(tokens: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The probabilities of tokens of digits, summed over the spaces around them."""
    found: dict[str, float] = defaultdict(float)
    for token, probability in tokens:
        if _is_digits(token.strip()):
            found[token.strip()] += probability
    return dict(found)


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_number(digits: str) -> bool:
    """Whether digits are an integer from 0 to 100 without leading zeros."""
    return str(int(digits)) == digits and int(digits) <= 100
