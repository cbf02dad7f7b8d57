"""What `finetune` prints for people."""

from __future__ import annotations

from personavec.data.terminal import show_reading
from personavec.finetune.results import FinetuneResults
from personavec.terminal import console, log, log_notes
from personavec.wording import plural


def show(results: FinetuneResults) -> None:
    """How the rows were read, and what the user should know, on stderr."""
    show_reading(results.data)
    log_notes(results.notes)
    if results.stopped:
        log(f"stopped at step {results.steps}: {results.stopped}")


def show_end(results: FinetuneResults) -> None:
    """What was trained, and where it lies."""
    amount = "" if results.coefficient is None else f" at {results.coefficient}"
    console.print(
        f"{plural(results.rows, 'row')} ({results.rejected} rejected), "
        f"{plural(results.steps, 'step')}, "
        f"mitigation {results.mitigation}{amount}, loss {results.loss:.3f} (mean over the "
        f"last tenth of the steps), {results.seconds:.0f} s\n"
        f"model: {results.model or 'none was kept'}; drift: {results.drift}"
    )
