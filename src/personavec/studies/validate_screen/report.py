"""The page of a validated screen, drawn from its saved results alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from personavec.report import (
    chart,
    document,
    element,
    folded,
    not_measured,
    plain,
    reading_section,
    section,
    signed,
    table,
)
from personavec.results import Estimate
from personavec.runs import atomic_write
from personavec.studies.validate_screen.charts import detection_auc
from personavec.studies.validate_screen.results import (
    DatasetOrder,
    StyleDetection,
    ValidateScreenResults,
)

STYLES = {"elicited": "rows elicited from the model", "written": "rows written by people"}


def write_detection_report(results: ValidateScreenResults, path: Path) -> None:
    """Write the page of a validation's results."""
    atomic_write(path, detection_report(results))


def detection_report(results: ValidateScreenResults) -> str:
    """The page as HTML: the summary first, then every trait, the order of datasets, the setup."""
    data = results.data
    traits = ", ".join(results.traits)
    styles = {name: found for name, found in results.styles.items() if found is not None}
    return document(
        "Does screening find what it should?",
        element("p", "personavec validate-screen", class_="eyebrow"),
        element("h1", "Does screening find what it should?"),
        element(
            "p",
            f"Rows that show a trait, planted into {data.clean} clean rows of {data.name} "
            f"and among clean answers to the same prompts. Traits: {traits}.",
            class_="description",
        ),
        element("p", results.model.name, class_="model"),
        [element("p", note, class_="note") for note in _notes(results)],
        section(
            "All traits",
            "summary",
            chart(
                detection_auc(
                    [(STYLES[name], _auc_rows(results, s)) for name, s in styles.items()]
                ),
                "AUC by method, mean over traits",
                "Dots with 95% intervals over resampled prompts; 0.5 is chance.",
            ),
            [_style(results, name, found) for name, found in styles.items()],
            element(
                "p",
                "As many rows are flagged as were planted, so precision and recall are one "
                "number. A rate is set by weighing planted rows; every row counts at every rate.",
            ),
        ),
        section(
            "Every trait",
            "traits",
            [
                [element("h3", STYLES[name][0].upper() + STYLES[name][1:]), _traits(results, found)]
                for name, found in styles.items()
            ],
        ),
        section("Strong, mild, normal", "order", _order(results)),
        reading_section({data.name: data.told}),
        section("Setup", "setup", _setup(results)),
    )


def _notes(results: ValidateScreenResults) -> list[str]:
    missing = [f"{name} was not measured: {why}." for name, why in results.not_measured.items()]
    return [*missing, *results.notes]


def _auc_rows(results: ValidateScreenResults, style: StyleDetection) -> list[tuple[str, Estimate]]:
    return [(title, style.methods[method]["auc"]) for method, title in results.methods.items()]


def _style(results: ValidateScreenResults, name: str, style: StyleDetection) -> Markup:
    rates = [f"{rate:g}" for rate in results.rates]
    statistics = [
        "auc",
        "auc_same_prompts",
        *(f"precision@{rate}" for rate in rates),
        *(f"average_precision@{rate}" for rate in rates),
    ]
    head = [
        "method",
        "AUC",
        "AUC, same prompts",
        *(f"precision = recall at {100 * float(rate):g}%" for rate in rates),
        *(f"average precision at {100 * float(rate):g}%" for rate in rates),
    ]
    rows = [
        [title, *(_estimate(style.methods[method].get(s)) for s in statistics)]
        for method, title in results.methods.items()
    ]
    return element(
        "div", element("h3", STYLES[name][0].upper() + STYLES[name][1:]), table(head, rows)
    )


def _traits(results: ValidateScreenResults, style: StyleDetection) -> Markup:
    names = list(style.traits)
    rows: list[list[Any]] = [
        [title, *(_estimate(style.traits[n].methods[method]["auc"]) for n in names)]
        for method, title in results.methods.items()
    ]
    counts = {
        "planted": "rows planted",
        "clean": "clean rows",
        "clean_same_prompts": "of these with the prompts of planted ones",
        "left_out": "left out, without a score by some method",
    }
    rows += [
        [title, *(str(getattr(style.traits[n], key)) for n in names)]
        for key, title in counts.items()
    ]
    return table(["AUC", *names], rows)


def _order(results: ValidateScreenResults) -> list[Markup]:
    rows = []
    for trait, order in results.order.items():
        if order is None:
            rows.append([trait, *[not_measured()] * 6])
            continue
        bands = [order.bands[name] for name in ("normal", "mild", "strong")]
        steps = [order.mild_minus_normal, order.strong_minus_mild]
        rows.append([trait, *(_estimate(v, sign=True) for v in (*bands, *steps)), verdict(order)])
    head = ["trait", "normal", "mild", "strong", "mild − normal", "strong − mild", "in order"]
    return [
        element(
            "p",
            "Mean exact difference of three datasets that answer the same questions: the model's "
            "own answers, and the lowest and the highest third of the elicited ones by the judge.",
        ),
        table(head, rows),
    ]


def verdict(order: DatasetOrder) -> str:
    """Whether strong > mild > normal, and whether both steps are beyond chance."""
    if not order.ordered:
        return "no"
    return "yes" if order.beyond_chance else "yes, within chance"


def _setup(results: ValidateScreenResults) -> list[Markup]:
    rows = [
        [
            name,
            str(trait.layer),
            f"{trait.kept} of {trait.elicited}",
            str(trait.written),
            f"{trait.training.planted} planted, {trait.training.clean} clean",
            f"C = {trait.tfidf.C:g}, AUC {trait.tfidf.training_auc:.2f}",
        ]
        for name, trait in results.traits.items()
    ]
    head = ["trait", "layer", "elicited rows kept", "written rows", "training rows", "TF-IDF"]
    settings = [[name, plain(value)] for name, value in asdict(results.settings).items()]
    return [table(head, rows), folded("All settings", table(["setting", "value"], settings))]


def _estimate(found: Estimate | None, *, sign: bool = False) -> Markup:
    """A value with its interval on a line of its own."""
    if found is None or found.value is None:
        return not_measured()
    shown = [
        "–" if end is None else signed(end) if sign else f"{end:.2f}"
        for end in (found.value, found.low, found.high)
    ]
    return Markup("{}<br><small>{} to {}</small>").format(*shown)
