"""The report of a screen: one HTML file, drawn from its results alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from personavec.report import (
    Content,
    charts as kit,
    element,
    estimate,
    folded,
    not_measured,
    page,
    reading_section,
    section,
    signed,
    table,
)
from personavec.screen import charts, report_opening
from personavec.screen.report_controls import control_panels
from personavec.screen.report_opening import NATURAL
from personavec.screen.report_rows import row_panel
from personavec.screen.results import (
    DatasetCounts,
    GroupMean,
    RankedRow,
    ScreenedTrait,
    ScreenResults,
    TwoStageMean,
)
from personavec.wording import plural

#: Groups in charts; the table has all.
_CHARTED_GROUPS = 30


def write_screening_report(results: ScreenResults, path: Path) -> None:
    """Write the report of one screen; a missing value is shown as not measured."""
    title = ", ".join(dataset.name for dataset in results.datasets)
    page.write(
        path,
        f"Screen of {title}",
        _heading(results, title),
        report_opening.opened(results),
        _overview(results),
        _comparison(results),
        *(_trait(name, trait, results) for name, trait in results.traits.items()),
        _unseen(),
        reading_section(results.data),
        _what_was_done(results),
    )


def _heading(results: ScreenResults, title: str) -> Markup:
    bad = f", {results.rejected} could not be used" if results.rejected else ""
    flagged = results.flagged_any
    return page.heading(
        "Screen of training data",
        title,
        element(
            "p",
            f"{results.rows} {'pairs' if results.kind == 'pair' else 'rows'} scored{bad}. "
            + ("" if flagged is None else f"{flagged} flagged for at least one trait."),
            class_="description",
        ),
        element("p", f"for {results.model.name}", class_="model"),
    )


def _overview(results: ScreenResults) -> Markup:
    head = (
        *("trait", "layer", "mean difference", "in σ of neutral prompts", "minus reference"),
        *("line", "flagged"),
    )
    compared = (
        "Raw projections, compared with nothing. Intervals are 95%."
        if results.natural == "none"
        else "Each figure is the mean of a row’s projection on the trait’s vector, minus that of "
        f"{NATURAL[results.natural]}. Above 0, training on the data would push "
        "the model toward the trait. Intervals are 95%, over prompts."
    )
    return section(
        "How far the data would push",
        "overview",
        element("p", compared),
        table(head, [_overview_row(*item) for item in results.traits.items()], "numbers"),
        _two_stages(results),
    )


def _overview_row(name: str, trait: ScreenedTrait) -> tuple[Content, ...]:
    in_sigma = _in_sigma(trait.mean, trait.sigma)
    against = trait.against_reference
    return (
        element("a", name, href=f"#{page.anchor(name)}"),
        str(trait.layer),
        estimate(trait.estimate, "+.3f"),
        not_measured() if in_sigma is None else signed(in_sigma, 3),
        "–" if against is None else estimate(against.estimate, "+.3f"),
        "–" if trait.threshold is None else signed(trait.threshold),
        _flagged(trait),
    )


def _flagged(trait: ScreenedTrait) -> str:
    share = None if trait.share_flagged is None else trait.share_flagged.mean
    return "–" if trait.flagged is None or share is None else f"{trait.flagged} ({share:.1%})"


def _two_stages(results: ScreenResults) -> Markup | None:
    staged = [(n, t, t.two_stage) for n, t in results.traits.items() if t.two_stage is not None]
    if not staged:
        return None
    rows = [
        (
            name,
            signed(stage.cheap_mean),
            estimate(trait.estimate, "+.3f"),
            estimate(stage.recall.estimate, ".1%"),
        )
        for name, trait, stage in staged
    ]
    return element(
        "div",
        element("h3", "Two stages"),
        element("p", _what_two_stages_mean(staged[0][2])),
        table(("trait", "cheap mean", "corrected mean", "recall"), rows, "numbers"),
    )


def _what_two_stages_mean(stage: TwoStageMean) -> str:
    return (
        f"{plural(stage.top, 'row')}, the highest of every trait by the cheap score, and "
        f"{plural(stage.sample, 'random other')} got the exact score. The corrected "
        "mean is the regression estimator of survey sampling, with the top slice as a "
        "stratum taken whole. Recall is the share of rows over the line, by their exact "
        "score, that the top slice holds; it is estimated from the random sample."
    )


def _comparison(results: ScreenResults) -> Markup | None:
    """All groups and traits in one chart, for every column that rows were grouped by."""
    columns = next(iter(results.traits.values())).groups
    if not columns:
        return None
    return section(
        "Comparison",
        "comparison",
        element(
            "p",
            "Means in σ of neutral prompts. Orange with a plus pushes toward the trait, blue with "
            "a minus away from it. Intervals stand in the tables below.",
        ),
        *(_group_map(results, column) for column in columns),
    )


def _group_map(results: ScreenResults, column: str) -> Markup:
    """Every group's mean for every trait, with a colour behind each number."""
    by_trait = {
        name: {row.group: _in_sigma(row.mean, trait.sigma) for row in trait.groups[column]}
        for name, trait in results.traits.items()
    }
    groups = list(next(iter(by_trait.values())))
    known = [abs(v) for means in by_trait.values() for v in means.values() if v is not None]
    reach = max([*known, 1e-6])
    rows = [
        (group, *(_heat(means.get(group), reach) for means in by_trait.values()))
        for group in groups
    ]
    return element(
        "div",
        element("h3", f"By {column}"),
        table((column, *by_trait), rows, "numbers heat-map", searchable=True),
    )


def _heat(value: float | None, reach: float) -> Content:
    if value is None:
        return not_measured()
    hue = kit.TOWARD if value > 0 else kit.AWAY
    look = f"--hue: {hue}; --heat: {round(60 * abs(value) / reach)}%"
    return element("span", signed(value), style=look)


def _in_sigma(mean: float | None, sigma: float) -> float | None:
    return None if mean is None or not sigma else mean / sigma


def _trait(name: str, trait: ScreenedTrait, results: ScreenResults) -> Markup:
    unit = "projection" if results.natural == "none" else "projection difference"
    return section(
        name,
        page.anchor(name),
        element("p", f"Rows without a natural response to compare with: {trait.missing}.")
        if trait.missing
        else None,
        report_opening.histogram(trait, unit),
        *(_groups(column, rows, unit) for column, rows in trait.groups.items()),
        element("h3", "Is it only length, or any direction?"),
        *control_panels(trait),
        element("h3", "Rows that push toward it most"),
        _rows(trait.ranked.high, opened=2),
        folded("Rows that push away from it most", _rows(trait.ranked.low)),
    )


def _rows(rows: Sequence[RankedRow], opened: int = 0) -> Markup:
    """Rows behind lines that unfold them, the first ones unfolded, with a field to search them."""
    panels = (row_panel(row, open_=index < opened) for index, row in enumerate(rows))
    return element("div", *panels, data_filter=True)


def _groups(column: str, rows: Sequence[GroupMean], unit: str) -> Markup:
    head = (column, "rank", "rows", "mean", "flagged", "mean without this group")
    numbers = table(head, [_group_row(row) for row in rows], "numbers", searchable=True)
    return element(
        "div",
        page.chart(charts.group_means(rows[:_CHARTED_GROUPS], unit), f"Mean by {column}")
        if len(rows) > 1
        else None,
        folded(f"The numbers by {column}", numbers),
    )


def _group_row(row: GroupMean) -> tuple[Content, ...]:
    shown = row.flagged is not None and row.n
    return (
        row.group,
        str(row.rank),
        str(row.n),
        estimate(row.estimate, "+.3f"),
        f"{row.flagged} ({row.flagged / row.n:.1%})" if row.flagged is not None and shown else "–",
        not_measured() if row.mean_without is None else signed(row.mean_without),
    )


def _unseen() -> Markup:
    return section(
        "What this does not see",
        "unseen",
        element(
            "ul",
            element(
                "li",
                "Traits that no visible content carries. A model can pass a trait on through "
                "numbers or code that look harmless (subliminal learning), and a few poisoned "
                "rows can plant one behind a trigger. Their responses project like any others.",
            ),
            element(
                "li",
                "Narrow errors, such as wrong arithmetic or unsafe code in a calm tone. Training "
                "on them can shift a model’s character, yet the literature finds their "
                "projections weak. Check facts by other means.",
            ),
            element(
                "li",
                "Anything that the vectors do not measure. A vector holds what its prompts "
                "elicited, style and length among it; the controls above say how much of a flag "
                "that could be.",
            ),
            element(
                "li",
                "Effects of rows together. Means add up rows one by one; training does not.",
            ),
        ),
    )


def _what_was_done(results: ScreenResults) -> Markup:
    model, reference, speed = results.model, results.reference, results.tokens_per_second
    facts: list[tuple[Content, Content]] = [
        ("model", element("code", model.name)),
        ("precision", element("code", model.dtype)),
        ("natural side", NATURAL[results.natural]),
        ("turns", results.turns),
        (
            "reference",
            "none" if reference is None else f"{reference.name}, {plural(reference.rows, 'row')}",
        ),
        ("judge", page.plain(results.judge["judge"]) if results.judge else "none"),
        ("tokens per second", not_measured() if speed is None else f"{speed:.0f}"),
        *((f"rows of {d.name}", _counted(d)) for d in results.datasets),
    ]
    return page.what_was_done(facts, results.settings, results.versions)


def _counted(dataset: DatasetCounts) -> str:
    bad = f", {dataset.rejected} rejected" if dataset.rejected else ""
    return f"{dataset.rows}{bad}"
