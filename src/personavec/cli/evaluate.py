"""personavec evaluate"""

from __future__ import annotations

from dataclasses import replace
from functools import cache as keep_loaded

from personavec.cli.groups import EngineOptions, ModelOptions, OutputOptions, ReportOptions
from personavec.evaluate.config import EvaluateConfig, EvaluateInputs
from personavec.extras import check_extras
from personavec.judges.config import JudgeOptions
from personavec.report.config import FigureOptions
from personavec.terminal import log_notes


def command(
    *,
    inputs: EvaluateInputs,
    config: EvaluateConfig = EvaluateConfig(),
    model: ModelOptions = ModelOptions(),
    engine: EngineOptions = EngineOptions(),
    judge: JudgeOptions = JudgeOptions(),
    output: OutputOptions = OutputOptions(),
    report: ReportOptions = ReportOptions(),
    figures: FigureOptions = FigureOptions(),
) -> None:
    """Measure how strongly a model shows traits: as it is, finetuned, or steered.

    Example: `personavec evaluate --trait evil --vectors evil --coefficient 3 --compare-to smollm2`

    With --out a report is written, and a killed run continues with the same command. The judge is
    by default the model compared to, else an adapter's base, else the model itself. --dry-run
    counts every response at its longest.
    """
    from personavec import evaluate
    from personavec.evaluate import Subject, judging_model, questions_to_judge, read_cues, run
    from personavec.evaluate.terminal import ending, show
    from personavec.traits import load_trait

    specs = [load_trait(name)[0] for name in inputs.trait]
    for spec in specs:
        judge.check(spec)
    asked = [(s, questions_to_judge(s, config, repeats=inputs.repeats)) for s in specs]
    if judge.dry_run:
        judge.show_estimate_to_come(asked, config.max_tokens, output.as_json)
        return
    check_extras(*["eval"] * bool(config.capability))
    folder = output.folder_or_temporary()
    steered_by = inputs.steered_by()
    cues = read_cues(inputs.cue) if inputs.cue else None
    load = keep_loaded(model.load)
    subject = Subject(load(model.model), steered_by)
    other = Subject(load(inputs.compare_to)) if inputs.compare_to else None
    # Before vLLM, which takes a share of the memory that is free.
    judging = judge.make_unless_default(load, lambda: judging_model(subject, other))
    tokens = config.max_tokens * sum(len(questions) for _, questions in asked)
    models = len({model.model, inputs.compare_to or model.model})
    chosen = engine.resolved(subject.loaded, folder=output.out, tokens=tokens, models=models)
    running = keep_loaded(lambda loaded: chosen.start(loaded, config.batch_tokens))
    subject = replace(subject, engine=running(subject.loaded))
    if other is not None:
        other = replace(other, engine=running(other.loaded))
    with folder as out:
        results = run(subject, specs, out, config, compare_to=other, cues=cues, judge=judging)
    figures.save(evaluate.paper_plots, results)
    page = output.out / "report.html" if output.out else None
    log_notes(results.notes)
    end = ending(results, inputs, page, model.named())
    report.end(output, results.summary(page), lambda: show(results), end)
    results.check_measured()
