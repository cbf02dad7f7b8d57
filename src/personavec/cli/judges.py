"""Tables that the commands of `personavec judges` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from personavec.terminal import console
from personavec.wording import estimated

if TYPE_CHECKING:
    from personavec.judges.results import Figure


def figure(found: Figure) -> str:
    """An estimate with its interval, or the reason why it is undefined."""
    return estimated(found, ".3f", missing=f"none: {getattr(found, 'why', '')}")


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Answers with some of their columns."""
    if not rows:
        return
    table = Table(*columns, "question", "answer")
    for row in rows:
        cells = [f"{v:.1f}" if isinstance(v := row.get(c), float) else str(v) for c in columns]
        table.add_row(*cells, _shortened(row.get("question")), _shortened(row.get("answer")))
    console.print(table, markup=False)


def _shortened(text: Any, length: int = 160) -> str:
    text = "" if text is None else str(text)
    return text if len(text) <= length else text[: length - 1] + "…"
