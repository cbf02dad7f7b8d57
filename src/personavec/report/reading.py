"""How datasets were read, for terminal and report: the readers, what was left out or changed."""

from collections.abc import Mapping

from markupsafe import Markup

from personavec.data import DataReading
from personavec.report.page import section, table

#: Columns, notes or reasons in one line or cell; the results have all.
_LISTED = 12


def reading_lines(data: Mapping[str, DataReading]) -> list[str]:
    """How each dataset was read, with lines for what was left out, changed or rejected."""
    lines = []
    for name, found in data.items():
        lines.append(f"{name}: read as {_listed(found.readers) or 'nothing'}")
        parts = [
            f"{title}: {_listed(counts)}"
            for counts, title in (
                (found.ignored_columns, "columns left out"),
                (found.notes, "done to rows"),
            )
            if counts
        ]
        if parts:
            lines.append(f"{name}: {'; '.join(parts)}")
        if found.rejected:
            lines.append(f"{name}: rejected: {_listed(found.rejected, '; ')}")
    return lines


def reading_section(data: Mapping[str, DataReading]) -> Markup | None:
    """A table with a row for each dataset; None where nothing was read."""
    if not data:
        return None
    rows = [
        (
            name,
            _listed(found.readers) or "–",
            _listed(found.ignored_columns) or "–",
            _listed(found.notes) or "–",
            _listed(found.rejected) or "–",
        )
        for name, found in data.items()
    ]
    return section(
        "How the data was read",
        "data",
        table(("data", "read as", "columns left out", "done to rows", "rejected"), rows),
    )


def _listed(counts: Mapping[str, int], between: str = ", ") -> str:
    found = list(counts.items())
    shown = [f"{what or 'columns'} ({n:,})" for what, n in found[:_LISTED]]
    rest = len(found) - len(shown)
    return between.join(shown) + (f" and {rest} more" if rest else "")
