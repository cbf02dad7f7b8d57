"""How datasets were read, for terminal and report: the readers, what was left out or changed.

Takes what `Told.to_dict` gives, by dataset.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from personavec.report.page import Html, section, table

#: Of columns, notes or reasons, in one line or cell; the results have all.
_LISTED = 12


def reading_lines(data: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line a dataset, and a second one where rows were changed or columns left out."""
    lines = []
    for name, told in data.items():
        lines.append(f"{name}: read as {_listed(told['readers'].items()) or 'nothing'}")
        parts = [
            f"{title}: {_listed(told[key].items())}"
            for key, title in (("ignored_columns", "columns left out"), ("notes", "done to rows"))
            if told[key]
        ]
        if parts:
            lines.append(f"{name}: {'; '.join(parts)}")
    return lines


def reading_section(data: Mapping[str, Mapping[str, Any]]) -> Html | None:
    """A table with a row for each dataset; None where nothing was read."""
    if not data:
        return None
    columns = ("readers", "ignored_columns", "notes", "rejected")
    rows = [
        (name, *(_listed(told[column].items()) or "–" for column in columns))
        for name, told in data.items()
    ]
    return section(
        "How the data was read",
        "data",
        table(("data", "read as", "columns left out", "done to rows", "rejected"), rows),
    )


def _listed(counts: Iterable[tuple[str, int]]) -> str:
    found = list(counts)
    shown = [f"{what or 'columns'} ({n:,})" for what, n in found[:_LISTED]]
    rest = len(found) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
