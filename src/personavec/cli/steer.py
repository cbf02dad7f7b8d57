"""personavec steer"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from personavec.cli import options as shared
from personavec.cli.groups import EngineOptions, ModelOptions, OutputOptions
from personavec.data.terminal import show_reading
from personavec.errors import ActivationError, UsageError
from personavec.evaluate.steer.config import SteerConfig
from personavec.options import options
from personavec.results import dump
from personavec.terminal import console, log, print_json
from personavec.wording import plural

if TYPE_CHECKING:
    from personavec.data import DataReading, ReadingCounts
    from personavec.evaluate.steer import SteeredAnswer
    from personavec.model import LoadedModel


@options()
@dataclass(frozen=True)
class SteerInputs:
    """What is asked, and what steers."""

    vectors: str = "optimistic"
    """A vector's folder or a bundled name."""
    file: Path | None = None
    """Rows with a `question`, or one question a line (.txt)."""


def command(
    *questions: str,
    inputs: SteerInputs = SteerInputs(),
    config: SteerConfig = SteerConfig(),
    model: ModelOptions = ModelOptions(),
    engine: EngineOptions = EngineOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Answers at several coefficients side by side, the system-prompted answer beside them.

    Example: `personavec steer "How was your day?" --vectors humorous --coefficient=-1,0,1.5`

    Parameters
    ----------
    questions
        Questions to answer; or use --file.
    """
    from personavec.data import ReadingCounts, read_questions
    from personavec.evaluate import steer
    from personavec.vectors import load_vector

    found, counts = read_questions(inputs.file) if inputs.file else ([], ReadingCounts())
    if not questions and not found:
        raise UsageError("no question: give one as an argument or a file with --file")
    out = output.file(output.out) if output.out else None
    vector = load_vector(inputs.vectors)
    shared.check_layer(config.layer, [vector])
    loaded = model.load()
    if warning := vector.other_model_warning(*loaded.identity.lineage):
        log(f"warning: {warning}")
    started = engine.start(loaded, config.batch_tokens)
    results = steer.run(loaded, vector, [*questions, *found], config, out=out, engine=started)
    own = _reading(ReadingCounts(Counter(question=len(questions))), questions, loaded)
    data = {"arguments": own} if own.notes else {}
    if inputs.file:
        data[inputs.file.name] = _reading(counts, found, loaded)
    results = replace(results, data=data)
    if output.as_json:
        print_json(dump(results))
    else:
        show_reading(results.data)
        _print(results.answers)
        if out:
            console.print(f"written to {out}", highlight=False)
    _check(results.answers, loaded.identity.dtype)


def _reading(counts: ReadingCounts, questions: Sequence[str], loaded: LoadedModel) -> DataReading:
    """How the questions were read, with the control tokens that the tokenizer finds in them."""
    from personavec.judges import count_control
    from personavec.model import chat

    count_control(counts, [loaded.chat], map(chat, questions))
    return counts.record()


def _check(answers: Sequence[SteeredAnswer], dtype: str) -> None:
    """Raise ActivationError where answers failed."""
    failed = [answer for answer in answers if answer.state == "failed"]
    if not failed:
        return
    where = ", ".join(dict.fromkeys(answer.condition for answer in failed))
    remedy = "" if dtype == "float32" else " or --dtype float32"
    raise ActivationError(
        f"{len(failed)} of {plural(len(answers), 'answer')} failed, at coefficient {where}, "
        f"as the model's numbers overflowed in {dtype}; use smaller ones{remedy}"
    )


def _print(answers: Sequence[SteeredAnswer]) -> None:
    for question in dict.fromkeys(answer.question for answer in answers):
        table = Table("steering", "answer", title=question, title_justify="left", show_lines=True)
        for answer in answers:
            if answer.question == question:
                shown = "(failed)" if answer.state == "failed" else answer.response
                table.add_row(answer.condition, shown)
        console.print(table, markup=False)
