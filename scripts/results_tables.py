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


def log_odds(found: Record | None) -> str:
    """Trait expression of a summary of answers, in nats."""
    if found is None or found["log_odds"] is None:
        return "–"
    return f"{found['log_odds']:.1f} ({found['log_odds_low']:.1f} to {found['log_odds_high']:.1f})"


def share(found: Record) -> str:
    """A share with its interval, in percent."""
    return f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"
