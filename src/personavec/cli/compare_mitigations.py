"""personavec compare-mitigations"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from personavec.cli.groups import ModelOptions, OutputOptions, ReportOptions
from personavec.data.conversations import ColumnMap
from personavec.extras import check_extras
from personavec.finetune.config import DATA
from personavec.judges.config import PlainJudgeOptions
from personavec.options import GENERAL, MAIN, options, parsed
from personavec.report.config import FigureOptions
from personavec.studies.compare_mitigations.config import CompareConfig, ComparedTraining


@options(DATA)
@dataclass(frozen=True)
class CompareInputs:
    """The trait, its vector, and how the rows are read."""

    trait: Annotated[str, MAIN]
    """A bundled trait, a spec file, or a name."""
    vectors: Annotated[str | None, MAIN] = None
    """The trait's vector; default: the bundled one."""
    by: str | None = None
    """A column that splits the data into parts; held-out loss is given for each part."""
    columns: Annotated[ColumnMap, parsed(ColumnMap.parse, "NAME=COLUMN,…")] = field(
        default_factory=ColumnMap
    )
    """Other column names, e.g. prompt=q,response=a."""
    split: str | None = None
    """A dataset's split."""


@options(GENERAL)
@dataclass(frozen=True)
class CompareOutput(OutputOptions):
    out: Annotated[Path, MAIN] = Path("out/compare-mitigations")
    """Folder to write."""


def command(
    data: Annotated[str, Parameter(help="Rows to finetune on: a file or a dataset.")],
    /,
    *,
    inputs: CompareInputs,
    config: CompareConfig = CompareConfig(),
    training: ComparedTraining = ComparedTraining(),
    judge: PlainJudgeOptions = PlainJudgeOptions(),
    model: ModelOptions = ModelOptions(),
    output: CompareOutput = CompareOutput(),
    report: ReportOptions = ReportOptions(),
    figures: FigureOptions = FigureOptions(),
) -> None:
    """Finetune on the same rows under several mitigations, and compare trait, capability, loss.

    Example: `personavec compare-mitigations sets/evil/strong.jsonl --trait evil
    --mitigation preventative:2,auto --mitigation steering:-2`

    Draws trait expression and capability against the coefficient. A killed run continues with the
    same command, and mitigations or seeds can be added to a finished one.
    """
    check_extras("finetune", *["eval"] * config.capability)

    from personavec.finetune import read_training_rows
    from personavec.studies.compare_mitigations import paper_plots, run, summary
    from personavec.studies.compare_mitigations.terminal import ending, show
    from personavec.traits import load_trait
    from personavec.vectors import check_layer, load_vector

    out = output.folder(output.out)
    spec, _ = load_trait(inputs.trait)
    judge.check(spec)
    config = replace(config, training=training.config())
    vector = load_vector(inputs.vectors or spec.name)
    check_layer(config.layer, [vector])
    rows = read_training_rows(
        data, columns=inputs.columns, split=inputs.split, flags=config.flags, by=inputs.by
    )
    loaded = model.load()
    judging = None
    if judge.judge != "contrast" or judge.judge_model:
        judging = judge.make(model.load, subject=loaded if judge.judge == "rubric" else None)
    results = run(loaded, rows, vector, spec, out, config, judge=judging)
    figures.save(paper_plots, results)
    end = ending(results, data, inputs.vectors or spec.name, model.named())
    report.end(output, summary(results), lambda: show(results), end)
