"""The opening of a screen's report: what was measured, what it says, and how it looks."""

from __future__ import annotations

from markupsafe import Markup

from personavec.report import Pair, element, not_measured, opening, page
from personavec.screen import charts
from personavec.screen.conclusion import conclusion, pushes
from personavec.screen.report_rows import row_answers, row_question, row_side
from personavec.screen.results import RankedRow, ScreenedTrait, ScreenResults
from personavec.screen.shown import Shown
from personavec.wording import plural

#: What responses are compared with, by `--natural`.
NATURAL = {
    "generate": "the model’s own greedy response to the same prompt",
    "last-prompt": "the prompt’s last token, which stands for the model’s own response (with "
    "--natural generate that response itself is taken)",
    "none": "nothing: these are raw projections, which also hold what the prompt is about",
    "two-stage": "the last token of the prompt for every row, and the model’s own greedy response "
    "for the top slice and a random sample",
    "rejected": "the rejected response to the same prompt",
}


def opened(found: Shown) -> Markup:
    """The picture and the row are those of the trait that the data push toward most."""
    results = found.results
    name = foremost(results)
    trait = results.traits[name]
    pair = next((_pair(name, row, found) for row in trait.ranked.high), None)
    return opening(
        _measured(found),
        conclusion(results),
        notes=results.notes,
        picture=histogram(trait, found, f", {name}"),
        pair=pair,
    )


def foremost(results: ScreenResults) -> str:
    """The trait that is pushed toward most, else that of the highest mean."""

    def rank(name: str) -> tuple[bool, float]:
        trait = results.traits[name]
        found = trait.against_reference or trait
        mean = float("-inf") if found.mean is None else found.mean / (trait.sigma or 1.0)
        return pushes(trait, results.natural) == "toward", mean

    return max(results.traits, key=rank)


def _measured(found: Shown) -> str:
    results = found.results
    if results.natural == "none":
        compared = "Nothing was subtracted: the projections also hold what the prompts are about."
    else:
        compared = (
            f"From each projection was subtracted that of {NATURAL[results.natural]}, so that "
            "above 0 lies what training would push toward."
        )
    if found.unit == "σ":
        compared += (
            " Values are in σ: standard deviations of the model’s projections on neutral prompts."
        )
    reference = results.reference
    if reference is not None:
        compared += (
            f" The {plural(reference.rows, 'row')} of {reference.name} are the reference: the "
            "means are compared with theirs."
        )
    pairs = "pair" if results.kind == "pair" else "row"
    return (
        f"The responses of {plural(results.rows, pairs)} were read by {results.model.name} and "
        f"projected on the vectors of {plural(len(results.traits), 'trait')}. {compared}"
    )


def histogram(trait: ScreenedTrait, found: Shown, whose: str = "") -> Markup:
    """The rows of a trait by their value."""
    if not trait.histogram.edges:
        return element("p", not_measured())
    return page.chart(
        charts.difference_histogram(trait, found),
        f"Rows by {found.value}{whose}",
        "The first and the last bar also hold the rows that lie further out.",
    )


def _pair(name: str, row: RankedRow, found: Shown) -> Pair:
    """The highest row, beside what it is compared with; by its sign, where that pushes."""
    value, side = found.row_value(row), row_side(row, found)
    if side == "toward":
        said = f"The row that pushes toward {name} most ({value})"
    elif side == "away":
        said = f"The highest row along {name}, which pushes away from it ({value})"
    else:
        said = f"The highest row along {name} ({value})"
    return Pair(f"{said}: {row_question(row)}", row_answers(row, found))
