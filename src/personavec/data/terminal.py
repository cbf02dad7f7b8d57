"""Terminal output of how datasets were read."""

from __future__ import annotations

from collections.abc import Mapping

from personavec.data.reading_counts import DataReading
from personavec.terminal import log

#: Most columns, notes or reasons in a line or cell; the results have all.
_LISTED = 12


def show_reading(data: Mapping[str, DataReading]) -> None:
    """Print how every dataset was read, and what was left out, on stderr."""
    for line in reading_lines(data):
        log(line)


def reading_lines(data: Mapping[str, DataReading]) -> list[str]:
    """How each dataset was read, with lines for what was left out, changed or rejected."""
    lines = []
    for name, found in data.items():
        lines.append(f"{name}: read as {listed(found.readers) or 'nothing'}")
        parts = [
            f"{title}: {listed(counts)}"
            for counts, title in (
                (found.ignored_columns, "columns left out"),
                (found.notes, "done to rows"),
            )
            if counts
        ]
        if parts:
            lines.append(f"{name}: {'; '.join(parts)}")
        if found.rejected:
            lines.append(f"{name}: rejected: {listed(found.rejected, '; ')}")
    return lines


def listed(counts: Mapping[str, int], between: str = ", ") -> str:
    """The first of some counts, and how many more there are."""
    found = list(counts.items())
    shown = [f"{what or 'columns'} ({n:,})" for what, n in found[:_LISTED]]
    rest = len(found) - len(shown)
    return between.join(shown) + (f" and {rest} more" if rest else "")
