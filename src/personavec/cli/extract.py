"""personavec extract"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from personavec.cli.groups import (
    EngineOptions,
    ModelOptions,
    OutputOptions,
    ReportOptions,
    TraitOptions,
)
from personavec.errors import UsageError
from personavec.extract.config import ROLLOUTS, ExtractConfig
from personavec.judges.config import JudgeOptions
from personavec.options import between, options
from personavec.report.config import FigureOptions
from personavec.results import dump


@options(ROLLOUTS)
@dataclass(frozen=True)
class ExtractInputs:
    rollouts: tuple[Path, ...] = ()
    """Adopt rollouts: a rollouts.jsonl, or a CSV for each polarity; repeatable."""
    more: Annotated[int | None, between(1)] = None
    """Add at least N rollouts to the finished run in --out, and make its vector anew."""


def command(
    *,
    trait: TraitOptions,
    config: ExtractConfig = ExtractConfig(),
    inputs: ExtractInputs = ExtractInputs(),
    model: ModelOptions = ModelOptions(),
    engine: EngineOptions = EngineOptions(),
    judge: JudgeOptions = JudgeOptions(),
    output: OutputOptions = OutputOptions(),
    report: ReportOptions = ReportOptions(),
    figures: FigureOptions = FigureOptions(),
) -> None:
    """Extract a trait's persona vector, validate it by steering, and write a report.

    Example: `personavec extract --trait optimistic --out vectors/optimistic`

    A killed run continues when the same command is given again. By default the unsteered
    model judges its own responses. --dry-run counts every response at its longest.
    """
    from personavec.extract import paper_plots, questions_to_judge, run, summary
    from personavec.extract.terminal import ending, show

    spec, origin = trait.load()
    judge.check(spec)
    if judge.dry_run:
        if inputs.rollouts:
            raise UsageError("--dry-run counts responses that are to come: leave --rollouts out")
        asked = [(spec, questions_to_judge(spec, config, inputs.more))]
        judge.show_estimate_to_come(asked, config.max_tokens, output.as_json)
        return
    folder = output.folder(Path("vectors") / spec.name.replace(" ", "_"))
    tokens = config.max_tokens * len(questions_to_judge(spec, config))
    loaded = model.load()
    judging = judge.make(model.load, subject=loaded)
    running = engine.resolved(loaded, folder=folder, tokens=tokens)
    results = run(
        loaded,
        spec,
        folder,
        config,
        origin=origin,
        judge=judging,
        rollouts=inputs.rollouts,
        more=inputs.more,
        engine=running.start(loaded, config.batch_tokens),
    )
    figures.save(paper_plots, results)
    found = summary(results, folder)
    end = ending(found, model.named())
    report.end(output, dump(found), lambda: show(found), end)
