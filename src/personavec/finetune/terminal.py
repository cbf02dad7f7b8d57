"""What `finetune` prints for people."""

from __future__ import annotations

from collections.abc import Sequence

from personavec.data.terminal import show_reading
from personavec.finetune.results import FinetuneResults
from personavec.terminal import Ending, Next, console, log, log_notes, show_ending
from personavec.wording import duration, plural


def show(results: FinetuneResults) -> None:
    """How the rows were read, and what the user should know, on stderr."""
    show_reading(results.data)
    log_notes(results.notes)
    if results.stopped:
        log(f"stopped at step {results.steps}: {results.stopped}")


def show_end(
    results: FinetuneResults, gates: Sequence[str], base: str, vectors: Sequence[str]
) -> None:
    """What was trained, and where it lies.

    `gates` are the conditions that did not stop it, `base` and `vectors` words of the command.
    """
    amount = "" if results.coefficient is None else f" at {results.coefficient}"
    console.print(
        f"{plural(results.rows, 'row')} ({results.rejected} rejected), "
        f"mitigation {results.mitigation}{amount}, {duration(results.seconds)}"
    )
    console.print(f"drift of the traits: {results.drift}", soft_wrap=True)
    show_ending(
        Ending(
            conclusion=_conclusion(results, gates),
            written=results.model,
            next=_next(results, base, vectors),
        )
    )


def _next(results: FinetuneResults, base: str, vectors: Sequence[str]) -> Next | None:
    if results.model is None:
        return None
    named = ("--vectors", ",".join(vectors)) if vectors else ()
    command = ("shift", base, str(results.model), *named)
    return Next("measure what it did to the traits", command)


def _conclusion(results: FinetuneResults, gates: Sequence[str]) -> str:
    """How far training came, and whether it passed its gates."""
    steps = plural(results.steps, "step")
    if results.stopped:
        kept = "the last model before it is kept" if results.model else "no model is kept"
        return f"Stopped after {steps}: {results.stopped}; {kept}."
    passed = f" Passed: never {' or '.join(gates)}." if gates else ""
    return f"Trained for {steps}; loss {results.loss:.3f} over the last tenth of them.{passed}"
