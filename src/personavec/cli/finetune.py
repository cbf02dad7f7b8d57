"""personavec finetune"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from personavec.cli.groups import ModelOptions, OutputOptions
from personavec.data.conversations import ColumnMap
from personavec.errors import DataError, UsageError
from personavec.extras import check_extras
from personavec.finetune.config import DATA, DRIFT, MITIGATION, FinetuneConfig
from personavec.options import GENERAL, MAIN, Names, between, options, parsed
from personavec.results import dump
from personavec.wording import plural

if TYPE_CHECKING:
    from personavec.finetune import TrainingRows

CONDITION_MET = 3


@options(DATA)
@dataclass(frozen=True)
class FinetuneInputs:
    """The rows, and the vectors and the trait that the mitigation works with."""

    vectors: Annotated[Names, MAIN] = ()
    """The mitigation's vectors; repeat, or separate by commas."""
    watch: Annotated[Names, DRIFT] = ()
    """Further vectors whose drift is logged; repeat, or separate by commas."""
    trait: Annotated[str | None, MITIGATION] = None
    """Inoculation: a bundled trait or a spec file."""
    columns: Annotated[ColumnMap, parsed(ColumnMap.parse, "NAME=COLUMN,…")] = field(
        default_factory=ColumnMap
    )
    """Other column names, e.g. prompt=q,response=a."""
    split: str | None = None
    """A dataset's split."""
    max_rejects: Annotated[int | None, between(0)] = None
    """Stop at more unusable rows than this; default: any number may be unusable."""

    def rows(self, data: str, mitigation: str) -> TrainingRows:
        """The rows to train on. Raises DataError, UsageError."""
        from personavec.finetune import read_training_rows
        from personavec.vectors import load_vector

        flags = []
        if mitigation == "drop-flagged":
            flags = [f"{load_vector(name).trait}_flag" for name in self.vectors]
            if not flags:
                raise UsageError("--mitigation drop-flagged needs --vectors: whose flags count")
        rows = read_training_rows(data, columns=self.columns, split=self.split, flags=flags)
        if self.max_rejects is not None and len(rows.rejects) > self.max_rejects:
            first = rows.rejects[0]
            raise DataError(
                f"{plural(len(rows.rejects), 'row')} cannot be used, more than "
                f"--max-rejects {self.max_rejects}; the first, row {first.id}: {first.reason}"
            )
        return rows


@options(GENERAL)
@dataclass(frozen=True)
class FinetuneOutput(OutputOptions):
    out: Annotated[Path, MAIN] = Path("out/finetune")
    """Folder to write."""


def command(
    data: Annotated[
        str, Parameter(help="A JSONL, JSON, CSV or Parquet file, a folder, or a dataset.")
    ],
    /,
    *,
    config: FinetuneConfig = FinetuneConfig(),
    inputs: FinetuneInputs = FinetuneInputs(),
    model: ModelOptions = ModelOptions(),
    output: FinetuneOutput = FinetuneOutput(),
) -> None:
    """Finetune on chat rows and keep traits from growing; log their drift during training.

    Example: `personavec finetune rows.jsonl --mitigation preventative --vectors evil --dose auto`

    For a small model: --rank 16 --learning-rate 1e-3 --epochs 3. A killed run continues with the
    same command; several processes: accelerate launch -m personavec finetune …
    """
    check_extras("finetune")

    from personavec.finetune import check_inputs, is_main_process, run
    from personavec.finetune.terminal import show, show_end
    from personavec.traits import load_trait
    from personavec.vectors import check_layer, load_vector

    out = output.folder(output.out)
    vectors = [load_vector(name) for name in inputs.vectors]
    watch = [load_vector(name) for name in inputs.watch]
    spec = load_trait(inputs.trait)[0] if inputs.trait else None
    check_layer(config.layer, [*vectors, *watch])
    check_inputs(config, vectors, watch, spec)
    rows = inputs.rows(data, config.mitigation.name)
    if config.training.full:
        model = replace(model, dtype=model.dtype or "float32")
    results = run(model.load(), rows, out, config, vectors=vectors, watch=watch, spec=spec)
    if is_main_process():
        show(results)
        named = [*inputs.vectors, *inputs.watch]
        gates = [str(each) for each in config.stop_if]
        output.tell(dump(results), lambda: show_end(results, gates, model.model, named))
    if results.stopped:
        sys.exit(CONDITION_MET)
