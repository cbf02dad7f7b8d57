"""The figures of a screen for a paper: rows from its results, and how they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

from personavec.report.drawing import GREY, INK, field_of_colour, forest, histogram
from personavec.report.plots import Plot, Row, estimate_cells, file_name
from personavec.results import Estimate
from personavec.screen.results import ScreenedTrait, ScreenResults
from personavec.wording import signed

#: Groups in figures; the CSV has the same.
_GROUPS = 30


def paper_plots(results: ScreenResults) -> list[Plot]:
    """The charts of a screen's report."""
    unit = "projection" if results.natural == "none" else "projection difference"
    means = partial(forest, x_title=f"mean {unit} (σ of neutral prompts)", reference=0)
    return [
        Plot("traits", trait_rows(results), means),
        *_group_plots(results, unit),
        *(
            Plot(
                file_name("rows", name),
                value_rows(trait),
                partial(
                    histogram,
                    y="share",
                    titles=(unit, "share of rows"),
                    colours={"rows": INK, "reference": GREY},
                ),
            )
            for name, trait in results.traits.items()
        ),
    ]


def trait_rows(results: ScreenResults) -> list[Row]:
    """The rows' mean along every trait, in sigma of neutral prompts."""
    return [
        {
            **{"label": name, "series": "rows"},
            **estimate_cells(in_sigma(trait.estimate, trait.sigma)),
            **{"n": trait.n, "flagged": trait.flagged, "sigma": trait.sigma},
        }
        for name, trait in results.traits.items()
    ]


def value_rows(trait: ScreenedTrait) -> list[Row]:
    """Shares of rows in bins of their value, in units of the projection; the line that flags."""
    found = trait.histogram
    sides = [("rows", found.counts)]
    if found.reference:
        sides.append(("reference", found.reference))
    rows: list[Row] = [
        {
            **{"kind": "bin", "series": series, "from": low, "to": high},
            **{"count": count, "share": count / max(1, sum(counts))},
        }
        for series, counts in sides
        for (low, high), count in zip(pairwise(found.edges), counts, strict=True)
    ]
    if rows and (line := trait.threshold) is not None:
        name = f"line at {signed(line)}"
        rows.append(
            {
                **{"kind": "line", "series": name, "from": line, "to": line},
                **{"count": None, "share": None},
            }
        )
    return rows


def group_rows(trait: ScreenedTrait, column: str) -> list[Row]:
    """The mean of each value of a column, the highest first, in units of the projection."""
    return [
        {
            **{"label": row.group, "series": "rows"},
            **estimate_cells(row.estimate),
            **{"n": row.n, "flagged": row.flagged, "rank": row.rank},
        }
        for row in trait.groups[column][:_GROUPS]
    ]


def field_rows(results: ScreenResults, column: str) -> list[Row]:
    """The mean of each value of a column for every trait, in sigma of neutral prompts."""
    first = next(iter(results.traits.values()))
    by_trait = {
        name: {row.group: row for row in trait.groups[column]}
        for name, trait in results.traits.items()
    }
    return [
        {
            **{"row": each.group, "column": name},
            **estimate_cells(in_sigma(by_trait[name][each.group].estimate, trait.sigma)),
            "n": by_trait[name][each.group].n,
        }
        for each in first.groups[column][:_GROUPS]
        for name, trait in results.traits.items()
    ]


def in_sigma(found: Estimate, sigma: float) -> Estimate:
    """An estimate in standard deviations of neutral prompts."""
    if not sigma:
        return Estimate()
    ends = (found.value, found.low, found.high)
    return Estimate(*(None if end is None else end / sigma for end in ends))


def _group_plots(results: ScreenResults, unit: str) -> Iterator[Plot]:
    for column in next(iter(results.traits.values())).groups:
        yield Plot(file_name("groups", column), field_rows(results, column), field_of_colour)
        for name, trait in results.traits.items():
            drawn = partial(forest, x_title=f"mean {unit}", reference=0)
            yield Plot(file_name("groups", column, name), group_rows(trait, column), drawn)
