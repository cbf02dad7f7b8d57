"""The figures of a validated screen for a paper: rows from its results, and how they are drawn."""

from __future__ import annotations

from functools import partial

from personavec.report.drawing import forest
from personavec.report.plots import Plot, Row, estimate_cells
from personavec.results import Estimate
from personavec.studies.validate_screen.conclusion import STYLES
from personavec.studies.validate_screen.report import statistics
from personavec.studies.validate_screen.results import ValidateScreenResults


def paper_plots(results: ValidateScreenResults) -> list[Plot]:
    """The chart of the report, the same of the other statistics, and the order of datasets."""
    found = []
    for statistic, title in statistics(results.rates).items():
        name = statistic.replace("@", "-at-").replace("_", "-").replace(".", "-")
        reference = 0.5 if statistic.startswith("auc") else None
        drawn = partial(forest, x_title=title, reference=reference, span=(-0.02, 1.02))
        found.append(Plot(name, method_rows(results, statistic), drawn))
    order = partial(forest, x_title="mean projection difference", reference=0)
    return [*found, Plot("order", order_rows(results), order)]


def method_rows(results: ValidateScreenResults, statistic: str) -> list[Row]:
    """A statistic of every method, for each style of planted rows: means over traits."""
    return [
        {
            **{"label": title, "series": STYLES[style]},
            **estimate_cells(found.methods[method].get(statistic) or Estimate()),
            "traits": len(found.traits),
        }
        for method, title in results.methods.items()
        for style, found in results.styles.items()
        if found is not None
    ]


def order_rows(results: ValidateScreenResults) -> list[Row]:
    """The mean exact difference of datasets whose strength is known, by trait."""
    return [
        {
            **{"label": trait, "series": band},
            **estimate_cells(order.bands[band]),
            "n": order.bands[band].n,
        }
        for trait, order in results.order.items()
        if order is not None
        for band in ("normal", "mild", "strong")
    ]
