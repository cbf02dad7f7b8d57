"""The page of a validated screen, drawn from its saved results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from markupsafe import Markup

from personavec.report import (
    Content,
    chart,
    element,
    not_measured,
    opening,
    page,
    reading_section,
    section,
    signed,
    table,
)
from personavec.results import Estimate
from personavec.studies.validate_screen.charts import detection_auc
from personavec.studies.validate_screen.conclusion import STYLES, conclusion
from personavec.studies.validate_screen.results import (
    DatasetOrder,
    StyleDetection,
    ValidateScreenResults,
)
from personavec.wording import capitalised, plural


def write_detection_report(results: ValidateScreenResults, path: Path) -> None:
    """Write the report: the summary first, then every trait, the order of datasets, the setup."""
    styles = {name: found for name, found in results.styles.items() if found is not None}
    title = "Does screening find what it should?"
    page.write(
        path,
        title,
        page.heading(
            "personavec validate-screen",
            title,
            element("p", results.model.name, class_="model"),
        ),
        _opening(results, styles),
        section(
            "All traits",
            "summary",
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
                [element("h3", capitalised(STYLES[name])), _traits(results, found)]
                for name, found in styles.items()
            ],
        ),
        section("Strong, mild, normal", "order", _order(results)),
        reading_section({results.data.name: results.data.told}),
        _setup(results),
    )


def _opening(results: ValidateScreenResults, styles: Mapping[str, StyleDetection]) -> Markup:
    data = results.data
    return opening(
        f"Rows that show a trait ({', '.join(results.traits)}) were planted into "
        f"{plural(data.clean, 'row')} of {data.name}, taken as clean, and among clean answers to "
        "the same prompts, and every method scored all of them. AUC is the chance that a planted "
        "row scores above a clean one: 0.5 is chance, 1 is perfect.",
        conclusion(results),
        notes=_notes(results),
        picture=chart(
            detection_auc([(STYLES[name], _auc_rows(results, s)) for name, s in styles.items()]),
            "AUC by method, mean over traits",
            "Dots with 95% intervals over resampled prompts; 0.5 is chance.",
        ),
    )


def _notes(results: ValidateScreenResults) -> list[str]:
    missing = [f"{name} was not measured: {why}." for name, why in results.not_measured.items()]
    return [*missing, *results.notes]


def _auc_rows(results: ValidateScreenResults, style: StyleDetection) -> list[tuple[str, Estimate]]:
    return [(title, style.methods[method]["auc"]) for method, title in results.methods.items()]


def statistics(rates: Sequence[float]) -> dict[str, str]:
    """What tables show of every method, by its key: the heading."""
    return {
        "auc": "AUC",
        "auc_same_prompts": "AUC, same prompts",
        **{f"precision@{rate:g}": f"precision = recall at {100 * rate:g}%" for rate in rates},
        **{
            f"average_precision@{rate:g}": f"average precision at {100 * rate:g}%" for rate in rates
        },
    }


def _style(results: ValidateScreenResults, name: str, style: StyleDetection) -> Markup:
    shown = statistics(results.rates)
    rows = [
        [title, *(_estimate(style.methods[method].get(s)) for s in shown)]
        for method, title in results.methods.items()
    ]
    head = ["method", *shown.values()]
    return element(
        "div", element("h3", capitalised(STYLES[name])), table(head, rows, searchable=True)
    )


def _traits(results: ValidateScreenResults, style: StyleDetection) -> Markup:
    names = list(style.traits)
    rows: list[Sequence[Content]] = [
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
    return table(["AUC", *names], rows, searchable=True)


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
            "own answers, and the lowest and the highest third of the elicited ones by the judge; "
            "in units of the projection.",
        ),
        table(head, rows),
    ]


def verdict(order: DatasetOrder) -> str:
    """Whether strong > mild > normal, and whether both steps are beyond chance."""
    if not order.ordered:
        return "no"
    return "yes" if order.beyond_chance else "yes, within chance"


def _setup(results: ValidateScreenResults) -> Markup:
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
    facts = [("model", results.model.name), ("rows", results.data.name)]
    done = page.what_was_done(facts, asdict(results.settings), results.versions)
    return section("Setup", "setup", table(head, rows)) + done


def _estimate(found: Estimate | None, *, sign: bool = False) -> Markup:
    """A value with its interval on a line of its own."""
    if found is None or found.value is None:
        return not_measured()
    shown = [
        "–" if end is None else signed(end) if sign else f"{end:.2f}"
        for end in (found.value, found.low, found.high)
    ]
    return Markup("{}<br><small>{} to {}</small>").format(*shown)
