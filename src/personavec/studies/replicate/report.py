"""The report of a replication: nine statements, then the figures, then what could not be done."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from personavec.report import Content, element, estimate, folded, page, section, table
from personavec.report.plots import Cell, Row
from personavec.studies.replicate.config import StageName
from personavec.studies.replicate.figures import drawing_of
from personavec.studies.replicate.plots import StudyPlot, study_plots
from personavec.studies.replicate.results import Outcome, ReplicateResults, Statement
from personavec.studies.replicate.stage import tables
from personavec.wording import decimal, joined

#: Rows of a table that the page shows; the CSV has all.
_SHOWN = 60


def write_replication_report(
    results: ReplicateResults, stages: Mapping[StageName, Any], path: Path
) -> None:
    """Write the report; a value that is missing is shown as not measured."""
    plots = study_plots(stages)
    page.write(
        path,
        f"{results.model.name}: replication",
        _heading(results),
        section("Nine statements", "statements", _statements(results.statements)),
        *(_statement(each, results, plots) for each in results.statements),
        section("Tables", "tables", *_tables(results, stages)),
        section("What could not be done", "not-done", _not_done(results.not_done)),
        section("Stages", "stages", _stages(results)),
        page.what_was_done(
            [("model", results.model.name), ("scale", results.settings.scale)],
            asdict(results.settings),
            results.versions,
        ),
    )


def _heading(results: ReplicateResults) -> Markup:
    return page.heading(
        "Replication of “Persona vectors” (arXiv 2507.21509)",
        results.model.name,
        element("p", headline(results.statements)),
    )


#: How a number of statements with an outcome is said, of one and of several.
_SAID: dict[Outcome, tuple[str, str]] = {
    "replicates": ("replicates", "replicate"),
    "not decided": ("is not decided", "are not decided"),
    "does not replicate": ("does not replicate", "do not replicate"),
    "not run": ("was not run", "were not run"),
}


def headline(statements: Iterable[Statement]) -> str:
    """How many statements have each verdict."""
    outcomes = [each.outcome for each in statements]
    said = [f"{n} {words[n > 1]}" for name, words in _SAID.items() if (n := outcomes.count(name))]
    return f"Of the paper's nine statements, on this model {joined(said)}."


def _statements(statements: Iterable[Statement]) -> Markup:
    rows = [
        (
            element("a", f"{each.number}. {each.title}", href=f"#statement-{each.number}"),
            [each.claim, f" ({each.source}{_papers(each)})"],
            each.ours,
            element("strong", each.outcome),
        )
        for each in statements
    ]
    return table(("statement", "the paper", "here", "verdict"), rows)


def _papers(statement: Statement) -> str:
    return f"; its figures: {statement.papers}" if statement.papers else ""


def _statement(of: Statement, results: ReplicateResults, plots: Iterable[StudyPlot]) -> Markup:
    rows = [
        (element("span", own.of, class_="whole"), estimate(own.ours), own.null, own.outcome)
        for own in of.evidence
    ]
    return section(
        f"{of.number}. {of.title}: {of.outcome}",
        f"statement-{of.number}",
        element("p", of.claim),
        element("p", "Rule: ", of.rule),
        table(("of", "our figure, 95% interval", "beside", "outcome"), rows)
        if rows
        else element("p", "Not measured."),
        *(_figure(plot, results.out) for plot in plots if plot.statement == of.number),
    )


def _figure(plot: StudyPlot, out: Path) -> Markup:
    """A figure with where its data are; the data alone where it was not drawn."""
    data = f"{plot.caption}. Data: {plot.stage}/{plot.plot.name}.csv"
    drawing = drawing_of(plot, out)
    if drawing is None:
        return element("p", data, "; not drawn.")
    source = f"data:image/svg+xml;base64,{b64encode(drawing).decode()}"
    return element(
        "figure",
        element("img", src=source, alt=plot.caption, style="max-width:100%;background:#fff"),
        element("figcaption", data),
    )


def _tables(results: ReplicateResults, stages: Mapping[StageName, Any]) -> list[Markup]:
    found = []
    titles = {own.name: own.title for own in results.stages}
    for stage, result in stages.items():
        for name, rows in tables(result).items():
            title = f"{titles[stage]}: {name.replace('_', ' ')} ({len(rows)})"
            note = f"All rows: {stage}/{name}.csv"
            found.append(folded(title, element("p", note), _table(rows)))
    return found


def _table(rows: Sequence[Row]) -> Markup:
    head = list(rows[0])
    return table(head, [[_cell(row[name]) for name in head] for row in rows[:_SHOWN]])


def _cell(value: Cell) -> Content:
    if isinstance(value, float):
        return decimal(value, ".3g")
    return "–" if value is None else str(value)


def _not_done(reasons: Iterable[str]) -> Markup:
    found = [element("li", reason) for reason in reasons]
    return element("ul", *found) if found else element("p", "All was done.")


def _stages(results: ReplicateResults) -> Markup:
    return table(
        ("stage", "state", "seconds", "token-forwards planned"),
        [
            (own.title, own.state, f"{own.seconds:.0f}", f"{own.forwards:,}".replace(",", " "))
            for own in results.stages
        ],
    )
