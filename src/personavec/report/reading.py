"""How datasets were read: a table of the readers, and of what was left out or changed."""

from collections.abc import Mapping

from markupsafe import Markup

from personavec.data import DataReading
from personavec.data.terminal import listed
from personavec.report.page import section, table


def reading_section(data: Mapping[str, DataReading]) -> Markup | None:
    """A table with a row for each dataset; None where nothing was read."""
    if not data:
        return None
    rows = [
        (
            name,
            listed(found.readers) or "–",
            listed(found.ignored_columns) or "–",
            listed(found.notes) or "–",
            listed(found.rejected) or "–",
        )
        for name, found in data.items()
    ]
    return section(
        "How the data was read",
        "data",
        table(("data", "read as", "columns left out", "done to rows", "rejected"), rows),
    )
