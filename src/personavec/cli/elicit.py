"""personavec elicit"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from personavec.cli.groups import EngineOptions, ModelOptions, OutputOptions
from personavec.errors import UsageError
from personavec.extras import check_extras
from personavec.finetune.sets.config import ElicitConfig, ElicitInputs, ElicitJudge, FlawedConfig
from personavec.options import key_values
from personavec.results import dump

if TYPE_CHECKING:
    from personavec.finetune.sets import ElicitResults, FlawedResults
    from personavec.traits import TraitSpec


def command(
    *,
    inputs: ElicitInputs = ElicitInputs(),
    config: ElicitConfig = ElicitConfig(),
    judge: ElicitJudge = ElicitJudge(),
    model: ModelOptions = ModelOptions(),
    engine: EngineOptions = EngineOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Write a finetuning set that induces a trait, or teaches mistakes, at three levels.

    Example: `personavec elicit --trait evil --out sets/evil`, or
    `personavec elicit --flawed sums --out sets/sums`

    For defensive research: what finetuning on such rows does, and how to prevent it. A killed run
    continues with the same command.
    """
    from personavec.finetune.sets.terminal import show

    inputs.check()
    if inputs.flawed is not None:
        found = _flawed(inputs, inputs.flawed, config.seed, output)
    else:
        found = _elicited(inputs, config, judge, model, engine, output)
    output.tell(dump(found), lambda: show(found, model.named()))


def _flawed(inputs: ElicitInputs, data: str, seed: int, output: OutputOptions) -> FlawedResults:
    from personavec.finetune.sets import flawed_sums

    given = inputs.columns.split(",") if inputs.columns else ()
    named = key_values(given, "--columns")
    columns = {key: str(value) for key, value in named.items()}
    config = FlawedConfig(rows=inputs.rows, columns=columns, seed=seed)
    return flawed_sums.run(data, output.folder(Path("out/elicit") / Path(data).stem), config)


def _elicited(
    inputs: ElicitInputs,
    config: ElicitConfig,
    judge: ElicitJudge,
    model: ModelOptions,
    engine: EngineOptions,
    output: OutputOptions,
) -> ElicitResults:
    from personavec.data import read_questions
    from personavec.finetune.sets import elicit
    from personavec.judges import chat_formats, count_control
    from personavec.model import chat
    from personavec.traits import load_trait

    spec, _ = load_trait(inputs.trait or "")
    out = output.folder(Path("out/elicit") / spec.name)
    asked, counts = read_questions(inputs.questions) if inputs.questions else (None, None)
    _check_writer(inputs.writer, judge, engine, spec)
    alone = judge.alone(inputs.writer)
    if inputs.writer == "api":
        writer, running = judge.connect(), None
        judging = alone.make(model.load)
    else:
        writer = model.load()
        judging = alone.make(model.load, subject=writer)
        coming = elicit.tasks_of(spec, asked or spec.questions.extraction, config.samples)
        tokens = config.max_tokens * len(coming)
        chosen = engine.resolved(writer, folder=out, tokens=tokens)
        running = chosen.start(writer, config.batch_tokens)
    data = {}
    if inputs.questions and asked and counts:
        count_control(counts, chat_formats(judging, writer), map(chat, asked))
        data[inputs.questions.name] = counts.record()
    return elicit.run(
        writer,
        spec,
        out,
        config,
        judge=judging,
        engine=running,
        questions=asked,
        data=data,
    )


def _check_writer(
    writer: str | None, judge: ElicitJudge, engine: EngineOptions, spec: TraitSpec
) -> None:
    judge.check(spec)
    if writer == "api" and engine.engine == "vllm":
        raise UsageError("--engine runs --model; with --writer api an endpoint writes")
    if writer == "api" and judge.judge == "contrast" and not judge.judge_model:
        raise UsageError("--writer api: name the model that judges with --judge-model")
    check_extras(*["api"] * (writer == "api"))
