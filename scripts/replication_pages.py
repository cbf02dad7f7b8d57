"""Write the pages of the replications from the evidence in docs/replication.

python scripts/replication_pages.py

Every folder there is the evidence of one model. It gets a page, README.md, and docs/replication.md
gets the verdicts of all models side by side, and so the figures that more than one of them has.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from personavec.results import read
from personavec.studies.replicate.evidence import RESULTS
from personavec.studies.replicate.plots import StudyPlot, study_plots
from personavec.studies.replicate.results import Statement
from personavec.studies.replicate.stages import STAGES
from personavec.studies.replicate.statements import Found, decide
from personavec.wording import estimated

DOCS = Path(__file__).parents[1] / "docs"
FOLDER = DOCS / "replication"
PAGE = DOCS / "replication.md"


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for model in models():
        (model / "README.md").write_text(model_page(model), "utf-8")
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")


def models() -> list[Path]:
    """The folders of evidence, one for each model."""
    return sorted(folder for folder in FOLDER.iterdir() if folder.is_dir())


def results_of(model: Path) -> dict[Any, Any]:
    """The results of the stages that are finished, by the stage's name."""
    return {
        stage.name: read(stage.result, path)
        for stage in STAGES
        if (path := model / stage.name / RESULTS).is_file()
    }


def with_tables(page: str) -> str:
    """The page with its tables of all models between their markers. Raises SystemExit without."""
    found = {model.name: decide(Found.of(results_of(model))) for model in models()}
    for name, made in (("verdicts", verdicts(found)), ("figures", figures(found))):
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin not in page or end not in page:
            raise SystemExit(f"{PAGE.name} has no place for the {name}; add {begin} and {end}")
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}\n{made}\n{end}{after}"
    return page


def verdicts(found: Mapping[str, Sequence[Statement]]) -> str:
    """The nine statements, a column for each model."""
    heads = [f"[{name}](replication/{name}/README.md)" for name in found]
    lines = [_row("", "statement", *heads), _row(*["---"] * (2 + len(heads)))]
    for own in zip(*found.values(), strict=True):
        lines.append(_row(str(own[0].number), own[0].title, *map(_short, own)))
    return "\n".join(lines)


def figures(found: Mapping[str, Sequence[Statement]]) -> str:
    """What was measured on more than one model, a column for each."""
    lines = [_row("", "of", *found), _row(*["---"] * (2 + len(found)))]
    for own in zip(*found.values(), strict=True):
        cells = [dict(_cells(statement)) for statement in own]
        for of in dict.fromkeys(name for each in cells for name in each):
            if sum(of in each for each in cells) > 1:
                lines.append(_row(str(own[0].number), of, *(each.get(of, "–") for each in cells)))
    return "\n".join(lines)


def _cells(statement: Statement) -> Iterable[tuple[str, str]]:
    """Of every figure what it is of, and its value with its outcome."""
    for own in statement.evidence:
        of, _, arm = own.of.partition(": ")
        if own.outcome != "not run":
            yield of, f"{estimated(own.ours)}{f' ({arm})' if arm else ''}: {own.outcome}"


def _short(of: Statement) -> str:
    """The verdict, and how many of its figures replicate."""
    known = [figure for figure in of.evidence if figure.outcome != "not run"]
    held = sum(figure.outcome == "replicates" for figure in known)
    return f"{of.outcome} ({held} of {len(known)})" if known else of.outcome


def model_page(model: Path) -> str:
    """The page of one model: its statements with their figures, then what was left out."""
    results = results_of(model)
    statements, plots = decide(Found.of(results)), study_plots(results)
    left = [stage.title for stage in STAGES if stage.name not in results]
    parts = [
        f"# The paper's statements on {model.name}",
        "Written by `python scripts/replication_pages.py` from the tables in these folders. "
        "[replication.md](../../replication.md) has the rules, and says when they were fixed. "
        "Intervals are 95%; beside each figure stands what it is compared with.",
        "\n".join(_overview(statements)),
        *(_statement(own, model, plots) for own in statements if own.evidence),
        "## What could not be done",
        "\n".join(
            [*(f"- {title}: not run." for title in left), *_left_out(results)] or ["Nothing."]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _overview(statements: Iterable[Statement]) -> Iterable[str]:
    yield _row("", "statement", "verdict")
    yield _row("---", "---", "---")
    for own in statements:
        yield _row(str(own.number), f"{own.title}: {own.claim}", _short(own))


def _statement(of: Statement, model: Path, plots: Iterable[StudyPlot]) -> str:
    papers = f" The paper's figures: {of.papers}." if of.papers else ""
    parts = [f"## {of.number}. {of.title}: {of.outcome}", f"{of.claim} Rule: {of.rule}{papers}"]
    head = [_row("of", "our figure", "beside", "outcome"), _row(*["---"] * 4)]
    rows = [_row(own.of, estimated(own.ours), own.null, own.outcome) for own in of.evidence]
    parts.append("\n".join([*head, *rows]))
    figures = [_figure(own, model) for own in plots if own.statement == of.number]
    return "\n\n".join([*parts, *filter(None, figures)])


def _figure(plot: StudyPlot, model: Path) -> str:
    """A figure, where it was drawn, with its data."""
    name = f"{plot.stage}/{plot.plot.name}"
    data = f"[{plot.caption}]({name}.csv)"
    return f"{data}\n\n![{plot.caption}]({name}.svg)" if (model / f"{name}.svg").is_file() else data


def _left_out(results: Mapping[Any, Any]) -> Iterable[str]:
    titles = {stage.name: stage.title for stage in STAGES}
    for name, result in results.items():
        for own in getattr(result, "left_out", ()):
            yield f"- {titles[name]}, {own.what}: {own.why}."


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    main()
