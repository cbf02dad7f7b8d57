"""What the report on screening draws: how well each method finds the planted rows."""

from __future__ import annotations

from collections.abc import Sequence

from personavec.report.charts import Bar, Chart, forest
from personavec.results import Estimate


def detection_auc(
    styles: Sequence[tuple[str, Sequence[tuple[str, Estimate]]]],
) -> Chart:
    """AUC of every method with its interval, a look for each style of planted rows.

    A row is a method and its AUC; methods go from top to bottom as they come.
    """
    bars = [Bar(method, style, found) for style, rows in styles for method, found in rows]
    return forest(bars, "AUC", reference=0.5, span=(-0.02, 1.02))
