"""Counts in words, as lines for people have them."""

from __future__ import annotations


def plural(n: int, noun: str, many: str = "") -> str:
    """A number of things: "1 row", "2 rows"; `many` is the plural where it is not noun + s."""
    return f"{n} {noun}" if n == 1 else f"{n} {many or noun + 's'}"
