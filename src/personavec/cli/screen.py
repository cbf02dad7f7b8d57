"""personavec screen"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from personavec.cli.groups import (
    EngineOptions,
    ModelOptions,
    OutputOptions,
    ReportOptions,
    VectorsOptions,
)
from personavec.errors import UsageError
from personavec.extras import check_extras
from personavec.options import GENERAL, MAIN, options
from personavec.report.config import FigureOptions
from personavec.screen.config import ScreenConfig, ScreenInputs

_ADDRESS = re.compile(r"auto|local|[^/\s]+:[0-9]+")


@options(GENERAL)
@dataclass(frozen=True)
class ScreenOutput(OutputOptions):
    out: Annotated[Path, MAIN] = Path("out/screen")
    """Folder to write."""


def with_ray_address(args: list[str]) -> list[str]:
    """Put `auto` after a `--ray` that no address follows.

    An option of cyclopts takes a fixed number of values, or all up to the next option; neither
    leaves the data that follow a bare `--ray` alone.
    """
    out: list[str] = []
    for place, argument in enumerate(args):
        out.append(argument)
        if argument == "--ray" and not _ADDRESS.fullmatch("".join(args[place + 1 : place + 2])):
            out.append("auto")
    return out


def command(
    *data: Annotated[str, Parameter(required=True)],
    chosen: VectorsOptions = VectorsOptions(),
    inputs: ScreenInputs = ScreenInputs(),
    config: ScreenConfig = ScreenConfig(),
    model: ModelOptions = ModelOptions(),
    engine: EngineOptions = EngineOptions(),
    output: ScreenOutput = ScreenOutput(),
    report: ReportOptions = ReportOptions(),
    figures: FigureOptions = FigureOptions(),
) -> None:
    """How far datasets would push a model along each trait, and which rows do it.

    Example: `personavec screen chats.jsonl --vectors evil,sycophantic --reference clean.jsonl`

    Writes all rows with scores, the flagged ones, all others as clean ones, and a report. A killed
    run continues with the same command.

    Parameters
    ----------
    data
        JSONL, JSON, CSV or Parquet files, folders of them, or datasets. bundled:TRAIT is a set
        to try it on, in which half of the rows show the trait.
    """
    from personavec import screen
    from personavec.judges import ContrastJudge
    from personavec.screen.terminal import ending, show
    from personavec.vectors import check_layer, specs_of

    if config.rule.percentile is not None and inputs.reference is None:
        raise UsageError("--percentile is of a --reference set; name one")
    if inputs.ray is not None and engine.engine == "vllm":
        raise UsageError("--ray scores with the transformers engine: leave out --engine")
    check_extras(*["ray"] * (inputs.ray is not None))
    out = output.folder(output.out)
    vectors = chosen.load()
    check_layer(config.layer, vectors)
    specs = specs_of(vectors, inputs.trait) if inputs.judge else []
    # How many rows a natural response is generated for is not known before the data are read.
    tokens = None if config.natural in ("generate", "two-stage") else 0
    loaded = model.load()
    judging = None if inputs.judge is None else ContrastJudge(loaded)
    running = engine.resolved(loaded, folder=out, tokens=tokens) if inputs.ray is None else None
    results = screen.run(
        loaded,
        vectors,
        [_source(name) for name in data],
        out,
        config,
        reference=inputs.reference,
        naturals=inputs.natural_cache,
        judge=judging,
        specs=specs,
        ray=inputs.ray,
        engine=running and running.start(loaded),
    )
    figures.save(screen.paper_plots, results)
    end = ending(results, data, chosen.vectors, model.named())
    report.end(output, screen.summarised(results), lambda: show(results), end)


def _source(name: str) -> str | Path:
    """The data of a name; those of `bundled:TRAIT` lie in the package. Raises SpecError."""
    from personavec.traits import checks_file

    bundled, _, trait = name.partition("bundled:")
    return name if bundled or not trait else checks_file(trait)
