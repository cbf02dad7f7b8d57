"""personavec import"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from personavec.cli.groups import ModelOptions, PrintOptions
from personavec.extract.config import ImportConfig
from personavec.options import options
from personavec.results import dump
from personavec.runs import check_writable


@options()
@dataclass(frozen=True)
class ImportInputs:
    trait: str
    """The trait's name."""
    out: Path
    """Folder of the vector to write."""

    def __post_init__(self) -> None:
        check_writable("--out", self.out, is_file=False)


def command(
    file: Path,
    /,
    *,
    inputs: ImportInputs,
    config: ImportConfig = ImportConfig(),
    model: ModelOptions = ModelOptions(),
    output: PrintOptions = PrintOptions(),
) -> None:
    """Make a persona vector from another project's file; measure its baseline on the model.

    Example: `personavec import evil_response_avg_diff.pt --trait evil --model MODEL --out evil`

    A killed run continues when the same command is given again.

    Parameters
    ----------
    file
        The reference project's .pt, [layers + 1, hidden].
    """
    from personavec.extract.import_reference import run
    from personavec.extract.terminal import show_import
    from personavec.vectors import read_reference

    read_reference(file)  # Refuse a bad file before the model is loaded.
    found = run(model.load(), file, inputs.trait, inputs.out, config)
    output.tell(dump(found), lambda: show_import(found, model.named()))
