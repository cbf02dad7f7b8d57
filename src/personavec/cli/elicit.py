"""personavec elicit"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.table import Table

from personavec.cli import options as shared
from personavec.cli.command import check_writable
from personavec.cli.groups import EngineOptions, ModelOptions, OutputOptions, PlainJudgeOptions
from personavec.data.terminal import show_reading
from personavec.errors import UsageError
from personavec.finetune.sets.config import RESPONSES, ElicitConfig, FlawedConfig
from personavec.options import JUDGE, MAIN, Count, options, panel
from personavec.results import Estimate, dump
from personavec.terminal import console, log, print_json
from personavec.wording import estimated, plural

if TYPE_CHECKING:
    from personavec.finetune.sets import ElicitResults, FlawedResults
    from personavec.judges import Endpoint
    from personavec.traits import TraitSpec

FLAWS = panel("Narrow flaws")


@options(MAIN)
@dataclass(frozen=True)
class ElicitInputs:
    """What the set is to show, and who writes it."""

    trait: str | None = None
    """A bundled trait or a spec file."""
    flawed: str | None = None
    """Instead of a trait: a file of questions with right and flawed answers, or of worked
    arithmetic, or 'sums'."""
    questions: Annotated[Path | None, RESPONSES] = None
    """File with a column 'question'; default: the extraction questions."""
    writer: Annotated[Literal["api"] | None, RESPONSES] = None
    """'api' writes with --api-model; default: --model writes."""
    rows: Annotated[Count | None, FLAWS] = None
    """At most this many rows."""
    columns: Annotated[str | None, FLAWS] = None
    """Other column names, e.g. question=q,flawed=wrong."""

    def check(self) -> None:
        """Raise UsageError for options that contradict each other."""
        if (self.trait is None) == (self.flawed is None):
            raise UsageError("give either --trait or --flawed")
        if self.flawed is not None and (self.questions or self.writer):
            raise UsageError("--questions and --writer are no options of --flawed")
        if self.trait is not None and (self.rows or self.columns):
            raise UsageError("--rows and --columns are options of --flawed; use --samples")


@options(JUDGE)
@dataclass(frozen=True)
class ElicitJudge(PlainJudgeOptions):
    """The judge. An endpoint may write, judge, or do both."""

    def __post_init__(self) -> None:
        if self.cache is not None:
            check_writable("--cache", self.cache, is_file=False)

    def choice(self, writer: str | None) -> shared.JudgeChoice:
        """The judge alone, without the endpoint where that only writes. Raises UsageError."""
        only_writes = writer == "api" and self.judge != "api"
        return shared.JudgeChoice(
            self.judge,
            self.judge_model,
            None if only_writes else self.api_base,
            None if only_writes else self.api_model,
            self.api_key_env,
            self.api_concurrency,
            self.cache,
        )

    def endpoint(self) -> Endpoint:
        """The endpoint that writes."""
        from personavec.judges import Endpoint

        return Endpoint(
            self.api_model or "",
            self.api_base or "",
            key_variable=self.api_key_env,
            concurrency=self.api_concurrency,
            cache=self.cache,
        )


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
    inputs.check()
    if inputs.flawed is not None:
        found = _flawed(inputs, inputs.flawed, config.seed, output)
    else:
        found = _elicited(inputs, config, judge, model, engine, output)
    if output.as_json:
        print_json(dump(found))
    else:
        _print(found)


def _flawed(inputs: ElicitInputs, data: str, seed: int, output: OutputOptions) -> FlawedResults:
    from personavec.finetune.sets import flawed_sums

    given = inputs.columns.split(",") if inputs.columns else ()
    named = shared.key_values(given, "--columns")
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
    from personavec.judges import count_control, readers
    from personavec.model import chat
    from personavec.traits import load_trait

    spec, _ = load_trait(inputs.trait or "")
    out = output.folder(Path("out/elicit") / spec.name)
    asked, counts = read_questions(inputs.questions) if inputs.questions else (None, None)
    _check_writer(inputs.writer, judge, engine, spec)
    choice = judge.choice(inputs.writer)
    if inputs.writer == "api":
        writer, running = judge.endpoint(), None
        judging = shared.make_judge(choice, model.load)
    else:
        writer = model.load()
        judging = shared.make_judge(choice, model.load, subject=writer)
        running = engine.start(writer, config.batch_tokens)
    data = {}
    if inputs.questions and asked and counts:
        count_control(counts, readers(judging, writer), map(chat, asked))
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
    if writer == "api" and engine.engine != "transformers":
        raise UsageError("--engine runs --model; with --writer api an endpoint writes")
    if writer == "api" and judge.judge == "contrast" and not judge.judge_model:
        raise UsageError("--writer api: name the model that judges with --judge-model")


def _print(found: ElicitResults | FlawedResults) -> None:
    from personavec.finetune.sets import ElicitResults

    show_reading(found.data)
    if isinstance(found, ElicitResults):
        _print_elicited(found)
        return
    table = Table("level", "rows", "file")
    for level, of in found.levels.items():
        table.add_row(level, str(of.rows), str(of.file))
    console.print(table)
    if found.rejected:
        console.print(
            f"{plural(found.rejected, 'row')} cannot be used: {found.out}/rejected.jsonl",
            highlight=False,
            markup=False,
        )


def _print_elicited(found: ElicitResults) -> None:
    table = Table("level", "rows", "score", "log-odds", "file")
    for level, of in found.levels.items():
        score = Estimate(of.mean, of.low, of.high)
        log_odds = Estimate(of.log_odds, of.log_odds_low, of.log_odds_high)
        shown = estimated(score, ".1f"), estimated(log_odds, ".1f")
        table.add_row(level, str(of.rows), *shown, str(of.file))
    console.print(table)
    if found.dropped:
        reasons = ", ".join(f"{n} {why}" for why, n in found.dropped.items())
        asked = plural(found.asked, "response")
        console.print(f"of {asked} left out: {reasons}", highlight=False)
    if found.thoughts:
        held = plural(found.thoughts, "response")
        console.print(f"thoughts left out of {held}", highlight=False)
    for note in found.notes:
        log(f"note: {note}")
