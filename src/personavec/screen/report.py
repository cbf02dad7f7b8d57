"""The report of a screen: one HTML file, drawn from its results alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from personavec.report import (
    Content,
    Side,
    charts as kit,
    element,
    estimate,
    folded,
    not_measured,
    page,
    pictured_above,
    reading_section,
    section,
    signed,
    table,
)
from personavec.screen import charts, report_opening
from personavec.screen.report_controls import control_panels
from personavec.screen.report_opening import NATURAL
from personavec.screen.report_rows import row_panel, row_side
from personavec.screen.results import (
    DatasetCounts,
    GroupMean,
    Mean,
    RankedRow,
    ScreenedTrait,
    ScreenResults,
    TwoStageMean,
)
from personavec.screen.shown import Shown, shown
from personavec.wording import plural

#: Groups in charts; the table has all.
_CHARTED_GROUPS = 30


def write_screening_report(results: ScreenResults, path: Path) -> None:
    """Write the report of one screen; a missing value is shown as not measured."""
    title = ", ".join(dataset.name for dataset in results.datasets)
    found = shown(results)
    page.write(
        path,
        f"Screen of {title}",
        _heading(results, title),
        report_opening.opened(found),
        _overview(found),
        _comparison(found),
        *(_trait(name, trait, found) for name, trait in found.results.traits.items()),
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


def _overview(found: Shown) -> Markup:
    results = found.results
    compared = (
        "Raw projections, compared with nothing. Intervals are 95%."
        if results.natural == "none"
        else "Each figure is the mean of a row’s projection on the trait’s vector, minus that of "
        f"{NATURAL[results.natural]}. Above 0, training on the data would push "
        "the model toward the trait. Intervals are 95%, over prompts."
    )
    mean = "mean projection" if results.natural == "none" else "mean difference"
    columns: dict[str, Sequence[Content]] = {
        "trait": [element("a", n, href=f"#{page.anchor(n)}") for n in results.traits],
        "layer": [str(trait.layer) for trait in results.traits.values()],
        f"{mean} ({found.unit})": [_mean(trait) for trait in results.traits.values()],
    }
    if results.reference is not None:
        against = [_mean(trait.against_reference) for trait in results.traits.values()]
        columns[f"minus reference ({found.unit})"] = against
    if results.rule is not None:
        if found.row_unit:
            lines = [_signed(trait.threshold) for trait in results.traits.values()]
            columns[f"line ({found.unit})"] = lines
        columns["rows flagged"] = [_flagged(trait) for trait in results.traits.values()]
    return section(
        "How far the data would push",
        "overview",
        element("p", compared),
        table(list(columns), zip(*columns.values(), strict=True), "numbers"),
        _two_stages(found),
    )


def _mean(found: Mean | None) -> Content:
    return not_measured() if found is None else estimate(found.estimate, "+.2f")


def _signed(value: float | None) -> str:
    return "–" if value is None else signed(value)


def _flagged(trait: ScreenedTrait) -> str:
    share = None if trait.share_flagged is None else trait.share_flagged.mean
    return "–" if trait.flagged is None or share is None else f"{trait.flagged} ({share:.1%})"


def _two_stages(found: Shown) -> Markup | None:
    traits = found.results.traits
    staged = [(n, t, t.two_stage) for n, t in traits.items() if t.two_stage is not None]
    if not staged:
        return None
    rows = [
        (
            name,
            signed(stage.cheap_mean),
            estimate(trait.estimate, "+.2f"),
            estimate(stage.recall.estimate, ".1%"),
        )
        for name, trait, stage in staged
    ]
    head = ("trait", f"cheap mean ({found.unit})", f"corrected mean ({found.unit})", "recall")
    return element(
        "div",
        element("h3", "Two stages"),
        element("p", _what_two_stages_mean(staged[0][2])),
        table(head, rows, "numbers"),
    )


def _what_two_stages_mean(stage: TwoStageMean) -> str:
    return (
        f"{plural(stage.top, 'row')}, the highest of every trait by the cheap score, and "
        f"{plural(stage.sample, 'random other')} got the exact score. The corrected "
        "mean is the regression estimator of survey sampling, with the top slice as a "
        "stratum taken whole. Recall is the share of rows above the line, by their exact "
        "score, that the top slice holds; it is estimated from the random sample."
    )


def _comparison(found: Shown) -> Markup | None:
    """All groups and traits in one table, for every column that rows were grouped by."""
    columns = next(iter(found.results.traits.values())).groups
    if not columns:
        return None
    return section(
        "Comparison",
        "comparison",
        element(
            "p",
            f"Means in {found.unit}. Orange with a plus pushes toward the trait, blue with "
            "a minus away from it. The traits’ own tables below have the intervals.",
        ),
        *(_group_map(found.results, column) for column in columns),
    )


def _group_map(results: ScreenResults, column: str) -> Markup:
    """Every group's mean for every trait, with a colour behind each number."""
    by_trait = {
        name: {row.group: row.mean for row in trait.groups[column]}
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


def _trait(name: str, trait: ScreenedTrait, found: Shown) -> Markup:
    foremost = name == report_opening.foremost(found.results)
    high, low = trait.ranked.high, trait.ranked.low
    return section(
        name,
        page.anchor(name),
        element("p", f"Rows without a natural response to compare with: {trait.missing}.")
        if trait.missing
        else None,
        pictured_above() if foremost else report_opening.histogram(trait, found),
        *(_groups(column, rows, found) for column, rows in trait.groups.items()),
        element("h3", "Is it only length, or any direction?"),
        *control_panels(trait, found.unit),
        element("h3", _ranked_title(high, found, "toward")),
        _combined(trait, found),
        _rows(high, found, opened=2),
        folded(_ranked_title(low, found, "away"), _rows(low, found)),
    )


def _combined(trait: ScreenedTrait, found: Shown) -> Markup | None:
    """What rows are ranked by where a judge has a say."""
    if found.results.judge is None:
        return None
    where = found.flagged_where(trait)
    return element(
        "p",
        "Rows are ranked by the mean of projection and judge, each standardised"
        + (f"; {where}." if where else "."),
    )


def _ranked_title(rows: Sequence[RankedRow], found: Shown, side: Side) -> str:
    """The highest or the lowest rows, and how many of them push to that side."""
    end, way = ("Highest rows", "toward") if side == "toward" else ("Lowest rows", "away from")
    n = sum(row_side(row, found) == side for row in rows)
    if not found.zero or not rows:
        return end
    if n == len(rows):
        return f"Rows that push {way} it most"
    return f"{end}, of which {n or 'none'} {'push' if n > 1 else 'pushes'} {way} it"


def _rows(rows: Sequence[RankedRow], found: Shown, opened: int = 0) -> Markup:
    """Rows behind lines that unfold them, the first ones unfolded, with a field to search them."""
    panels = (row_panel(row, found, open_=index < opened) for index, row in enumerate(rows))
    return element("div", *panels, data_filter=True)


def _groups(column: str, rows: Sequence[GroupMean], found: Shown) -> Markup:
    ruled = found.results.rule is not None
    flags = ("flagged",) if ruled else ()
    of = f"({found.unit})"
    head = (column, "rank", "rows", f"mean {of}", *flags, f"mean without this group {of}")
    cells = [_group_row(row, ruled=ruled) for row in rows]
    drawn = charts.group_means(rows[:_CHARTED_GROUPS], f"mean {found.value} {of}")
    return element(
        "div",
        page.chart(drawn, f"Mean by {column}") if len(rows) > 1 else None,
        folded(f"The numbers by {column}", table(head, cells, "numbers", searchable=True)),
    )


def _group_row(row: GroupMean, *, ruled: bool) -> list[Content]:
    cells: list[Content] = [row.group, str(row.rank), str(row.n), estimate(row.estimate, "+.2f")]
    if ruled:
        known = row.flagged is not None and row.n
        cells.append(f"{row.flagged} ({(row.flagged or 0) / row.n:.1%})" if known else "–")
    cells.append(not_measured() if row.mean_without is None else signed(row.mean_without))
    return cells


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
