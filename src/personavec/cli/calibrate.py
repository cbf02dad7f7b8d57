"""personavec calibrate"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from personavec.cli.command import check_writable
from personavec.cli.groups import ModelOptions, PlainJudgeOptions, PrintOptions
from personavec.errors import UsageError
from personavec.monitor.config import CalibrateConfig
from personavec.options import options
from personavec.terminal import console, log, print_json
from personavec.wording import estimated

if TYPE_CHECKING:
    from personavec.traits import TraitSpec
    from personavec.vectors import Calibration, PersonaVector

_FAMILIES = {"all": "all", "prompts": "eight system prompts", "examples": "0 to 20 examples"}


@options()
@dataclass(frozen=True)
class CalibrateInputs:
    vectors: str = "optimistic"
    """A vector's folder or a bundled name."""
    trait: str | None = None
    """Its spec: a bundled trait or a file. Default: the vector's trait."""
    out: Path | None = None
    """Folder to write; default: the vector's."""

    def __post_init__(self) -> None:
        if self.out is not None:
            check_writable("--out", self.out, is_file=False)

    def load(self) -> tuple[PersonaVector, TraitSpec]:
        """Raises UsageError for a spec of another trait, DataError."""
        from personavec.traits import load_trait
        from personavec.vectors import load_vector

        vector = load_vector(self.vectors)
        spec, _ = load_trait(self.trait or vector.trait)
        if spec.name != vector.trait:
            raise UsageError(f"the vector is of '{vector.trait}', the spec of '{spec.name}'")
        return vector, spec

    def folder(self) -> Path:
        """Where to write. Raises UsageError for a bundled vector without --out."""
        from personavec.vectors import bundled_vectors, vector_folder

        if self.out is not None:
            return self.out
        if self.vectors in bundled_vectors():
            raise UsageError(f"'{self.vectors}' is a bundled vector: give --out a folder to write")
        return vector_folder(self.vectors)


def command(
    *,
    inputs: CalibrateInputs = CalibrateInputs(),
    config: CalibrateConfig = CalibrateConfig(),
    judge: PlainJudgeOptions = PlainJudgeOptions(),
    model: ModelOptions = ModelOptions(),
    output: PrintOptions = PrintOptions(),
) -> None:
    """Measure how well a vector's projection forecasts the answer; kept beside the vector.

    Example: `personavec calibrate --vectors vectors/formal --trait formal.json`

    Answers come from the spec's eight monitoring prompts and from 0 to 20 earlier turns that show
    the trait. A killed run continues with the same command.
    """
    from personavec.monitor import calibrate

    vector, spec = inputs.load()
    judge.check(spec)
    folder = inputs.folder()
    loaded = model.load()
    if warning := vector.other_model_warning(*loaded.identity.lineage):
        log(f"warning: {warning}")
    found = calibrate.run(
        loaded, spec, vector, folder, config, judge=judge.make(model.load, subject=loaded)
    )
    if output.as_json:
        print_json(_summary(found, folder))
    else:
        _print(found, folder)


def _summary(found: Calibration, folder: Path) -> dict[str, Any]:
    """What `--json` prints."""
    from personavec.results import dump

    record = dump(found)
    kept = ("correlations", "coverage", "fitted_on", "tested_on", "unscored", "notes")
    return {
        **{name: record[name] for name in ("trait", "layer", "unit", "slope", "intercept")},
        "interval": [found.below, found.above],
        **{name: record["results"][name] for name in kept},
        "out": str(folder),
    }


def _print(found: Calibration, folder: Path) -> None:
    results = found.results
    assert results is not None
    for note in results.notes:
        log(f"note: {note}")
    table = Table(
        "settings",
        "answers",
        "overall",
        "within condition",
        title=f"{found.trait}: correlation of the prompt's projection with the answer's expression",
        title_justify="left",
    )
    for name, own in results.correlations.items():
        overall, within = (
            estimated(each, missing="not measured") for each in (own.overall, own.within)
        )
        table.add_row(_FAMILIES[name], str(own.n), overall, within)
    console.print(table)
    unit = "nats" if found.unit == "log_odds" else "points"
    console.print(
        f"forecast: {found.intercept:+.2f} {found.slope:+.2f} × projection, "
        f"{found.below:+.2f} to {found.above:+.2f} {unit}; its interval held "
        f"{estimated(results.coverage, missing='not measured')} of held-out answers",
        highlight=False,
    )
    console.print(f"written to {folder}", highlight=False, markup=False)
