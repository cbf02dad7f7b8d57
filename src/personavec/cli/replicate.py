"""personavec replicate"""

from __future__ import annotations

from pathlib import Path

from personavec.cli.groups import EngineOptions, ModelOptions, OutputOptions, ReportOptions
from personavec.extras import check_extras
from personavec.judges.config import PlainJudgeOptions
from personavec.results import dump
from personavec.studies.replicate.config import ReplicateConfig, ReplicateInputs


def command(
    *,
    config: ReplicateConfig = ReplicateConfig(),
    inputs: ReplicateInputs = ReplicateInputs(),
    judge: PlainJudgeOptions = PlainJudgeOptions(),
    model: ModelOptions = ModelOptions(),
    engine: EngineOptions = EngineOptions(),
    output: OutputOptions = OutputOptions(),
    report: ReportOptions = ReportOptions(),
) -> None:
    """Replicate the paper on a model: nine statements with verdicts, their figures and tables.

    Example: `personavec replicate --scale small --chats chats.jsonl`

    Stages run in order; a killed run continues with the same command.
    """
    from personavec.studies.replicate import Selection, Study, run
    from personavec.studies.replicate.extras import extras_of
    from personavec.studies.replicate.spreading import workers_of
    from personavec.studies.replicate.study import read_inputs
    from personavec.studies.replicate.terminal import ending, plan_of, show, show_plan

    found = read_inputs(config, inputs)
    for spec in found.specs.values():
        judge.check(spec)
    if inputs.dry_run:
        plan = plan_of(found, inputs, model.load)
        output.tell(dump(plan), lambda: show_plan(plan))
        return
    selection = Selection(inputs.only, inputs.skip, inputs.evidence)
    check_extras(*extras_of(selection), *["ray"] * (inputs.ray is not None))
    out = output.folder(Path("out/replicate"))
    loaded = model.load()
    judging = judge.make_unless_default(model.load, lambda: loaded)
    running = engine.resolved(loaded, folder=out)
    study = Study(
        found,
        loaded,
        out,
        judging,
        running.start(loaded, config.batch_tokens),
        workers=workers_of(loaded, model.load, inputs.ray),
    )
    results = run(study, selection)
    report.end(output, dump(results), lambda: show(results), ending(results))
