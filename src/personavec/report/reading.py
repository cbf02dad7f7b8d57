"""How datasets were read, for terminal and report: the readers, what was left out or changed.

Takes what `Told.to_dict` gives, by dataset.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from personavec.report.page import section, table

#: Of columns, notes or reasons, in one line or cell; the results have all.
_LISTED = 12


def reading_lines(data: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How each dataset was read, with lines for what was left out, changed or rejected."""
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
        if told["rejected"]:
            lines.append(f"{name}: rejected: {_listed(told['rejected'].items(), '; ')}")
    return lines


def reading_section(data: Mapping[str, Mapping[str, Any]]) -> Markup | None:
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


def _listed(counts: Iterable[tuple[str, int]], between: str = ", ") -> str:
    found = list(counts)
    shown = [f"{what or 'columns'} ({n:,})" for what, n in found[:_LISTED]]
    rest = len(found) - len(shown)
    return between.join(shown) + (f" and {rest} more" if rest else "")
