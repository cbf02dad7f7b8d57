"""personavec calibrate"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from personavec.cli.command import check_writable
from personavec.cli.groups import ModelOptions, PlainJudgeOptions, PrintOptions
from personavec.errors import UsageError
from personavec.monitor.config import CalibrateConfig
from personavec.options import options
from personavec.terminal import log, print_json

if TYPE_CHECKING:
    from personavec.traits import TraitSpec
    from personavec.vectors import PersonaVector


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
    from personavec.monitor import calibrate, summarised_calibration
    from personavec.monitor.terminal import show_calibration

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
        print_json(summarised_calibration(found, folder))
    else:
        show_calibration(found, folder)
