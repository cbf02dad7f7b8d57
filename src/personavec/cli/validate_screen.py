"""personavec validate-screen"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from personavec.cli.groups import ModelOptions, OutputOptions, ReportOptions, VectorsOptions
from personavec.options import GENERAL, MAIN, options
from personavec.report.config import FigureOptions
from personavec.studies.validate_screen.config import ValidateScreenConfig, ValidateScreenInputs


@options(GENERAL)
@dataclass(frozen=True)
class ValidateScreenOutput(OutputOptions):
    out: Annotated[Path, MAIN] = Path("out/validate-screen")
    """Folder to write."""


def command(
    data: Annotated[str, Parameter(required=True)],
    /,
    *,
    vectors: VectorsOptions = VectorsOptions(),
    config: ValidateScreenConfig = ValidateScreenConfig(),
    inputs: ValidateScreenInputs = ValidateScreenInputs(),
    model: ModelOptions = ModelOptions(),
    output: ValidateScreenOutput = ValidateScreenOutput(),
    report: ReportOptions = ReportOptions(),
    figures: FigureOptions = FigureOptions(),
) -> None:
    """Plant rows that show a trait into clean ones, and see which methods find them.

    Example: `personavec validate-screen chats.jsonl --vectors evil,sycophantic --clean 100`

    Prints precision, recall, AUC and average precision of every method, for rows that the model
    wrote and for rows that people wrote. A killed run continues with the same command.

    Parameters
    ----------
    data
        Clean rows: a JSONL, JSON, CSV or Parquet file, or a dataset.
    """
    from personavec.studies.validate_screen import paper_plots, run, summary
    from personavec.studies.validate_screen.terminal import ending, show
    from personavec.vectors import specs_of

    out = output.folder(output.out)
    found = vectors.load()
    specs = specs_of(found, inputs.trait)
    results = run(model.load(), found, specs, data, out, config, naturals=inputs.natural_cache)
    figures.save(paper_plots, results)
    end = ending(results, data, vectors.vectors, model.named())
    report.end(output, summary(results), lambda: show(results), end)
