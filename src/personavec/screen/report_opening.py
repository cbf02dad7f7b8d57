"""The opening of a screen's report: what was measured, what it says, and how it looks."""

from __future__ import annotations

from markupsafe import Markup

from personavec.report import Content, Pair, element, not_measured, opening, page, signed
from personavec.screen import charts
from personavec.screen.conclusion import conclusion, pushes
from personavec.screen.report_rows import row_answers, row_question
from personavec.screen.results import RankedRow, ScreenedTrait, ScreenResults
from personavec.wording import plural

#: What responses are compared with, by `--natural`.
NATURAL = {
    "generate": "the model’s own greedy response to the same prompt",
    "last-prompt": "the prompt’s last token, the paper’s stand-in for the model’s own response",
    "none": "nothing: these are raw projections, which also hold what the prompt is about",
    "two-stage": "the last token of the prompt for every row, and the model’s own greedy response "
    "for the top slice and a random sample",
    "rejected": "the rejected response to the same prompt",
}


def opened(results: ScreenResults) -> Markup:
    """The picture and the row are those of the trait that the data push toward most."""
    name = _foremost(results)
    trait = results.traits[name]
    unit = "projection" if results.natural == "none" else "projection difference"
    pair = next((_pair(name, row) for row in trait.ranked.high), None)
    return opening(
        _measured(results),
        conclusion(results),
        notes=results.notes,
        picture=histogram(trait, f"{unit}, {name}"),
        pair=pair,
    )


def _foremost(results: ScreenResults) -> str:
    """The trait that is pushed toward most, else that of the highest mean."""

    def rank(name: str) -> tuple[bool, float]:
        trait = results.traits[name]
        found = trait.against_reference or trait
        mean = float("-inf") if found.mean is None else found.mean / (trait.sigma or 1.0)
        return pushes(trait, results.natural) == "toward", mean

    return max(results.traits, key=rank)


def _measured(results: ScreenResults) -> str:
    if results.natural == "none":
        compared = "Nothing was subtracted: the projections also hold what the prompts are about."
    else:
        compared = (
            f"From each was subtracted that of {NATURAL[results.natural]}, so that above 0 lies "
            "what training would push toward."
        )
    reference = results.reference
    if reference is not None:
        compared += (
            f" The {plural(reference.rows, 'row')} of {reference.name} are the reference: what "
            "the data show beyond it counts."
        )
    pairs = "pair" if results.kind == "pair" else "row"
    return (
        f"The responses of {plural(results.rows, pairs)} were read by {results.model.name} and "
        f"projected on the vectors of {plural(len(results.traits), 'trait')}. {compared}"
    )


def histogram(trait: ScreenedTrait, unit: str) -> Markup:
    """The rows of a trait by their value."""
    if not trait.histogram.edges:
        return element("p", not_measured())
    return page.chart(
        charts.difference_histogram(trait.histogram, trait.threshold, unit),
        f"Rows by {unit}",
        "The outermost bins hold what lies beyond.",
    )


def _pair(name: str, row: RankedRow) -> Pair:
    """The row that pushes most, beside what it is compared with."""
    value: Content = "" if row.value is None else f" ({signed(row.value)})"
    return Pair(
        f"The row that pushes toward {name} most{value}: {row_question(row)}", row_answers(row)
    )
