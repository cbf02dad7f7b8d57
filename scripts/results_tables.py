"""What the pages of results share: estimates with their intervals, and tables, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def pm(found: Record | None, key: str = "value", digits: int = 2) -> str:
    """An estimate with its interval."""
    if found is None or found.get(key) is None:
        return "not measured"
    value, low, high = (f"{found[name]:.{digits}f}" for name in (key, "low", "high"))
    return f"{value} ({low} to {high})"


def share(found: Record) -> str:
    """A share with its interval, in percent."""
    return f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"
