"""What a screen's report draws: rows by their difference, and groups by their mean."""

from __future__ import annotations

from collections.abc import Sequence

from personavec.report import charts as kit
from personavec.report.charts import Axis, Bar, Chart, Mark, Rule, Style
from personavec.screen.results import GroupMean, ScreenedTrait
from personavec.screen.shown import Shown
from personavec.wording import plural, signed


def difference_histogram(trait: ScreenedTrait, found: Shown) -> Chart:
    """Rows by their value, beside the reference set as shares, with the line drawn.

    Where a judge had a say, the line is of other values than these.
    """
    histogram = trait.histogram
    sides = [("rows", kit.PURPLE, histogram.counts)]
    if histogram.reference:
        sides.append(("reference", kit.GREY, histogram.reference))
    marks: list[Mark] = []
    for index, (name, colour, counts) in enumerate(sides):
        total = max(1, sum(counts))

        def said(share: float, middle: float, name: str = name) -> str:
            return f"{share:.1%} of the {name} near {signed(middle)} {found.unit}"

        heights = [count / total for count in counts]
        marks.append(kit.histogram(name, colour, histogram.edges, heights, said, filled=index == 0))
    if trait.threshold is not None and found.row_unit:
        name, style = found.flagged_where(trait), Style(kit.TOWARD, "7 4")
        marks.append(Rule(at=trait.threshold, upright=True, name=name, style=style))
    return Chart(
        x=Axis(title=f"{found.value} ({found.unit})"),
        y=Axis(title="share of rows", zero=True, percent=True),
        height=300,
        marks=tuple(marks),
    )


def group_means(rows: Sequence[GroupMean], unit: str) -> Chart:
    """One dot with its interval for each group, highest on top."""
    bars = [
        Bar(kit.shortened(row.group), plural(row.n, "row"), row.estimate)
        for row in rows
        if row.mean is not None
    ]
    one = [Bar(bar.label, "mean", bar.found) for bar in bars]
    return kit.forest(one, unit, reference=0, by_side=True)
