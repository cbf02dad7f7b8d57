"""personavec monitor"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from personavec.cli.command import check_writable
from personavec.cli.groups import EngineOptions, ModelOptions, PrintOptions
from personavec.monitor.config import MonitorConfig
from personavec.options import Names, options
from personavec.terminal import print_json


@options()
@dataclass(frozen=True)
class MonitorInputs:
    vectors: Names = ()
    """Vectors' folders or bundled names; repeat it, or separate by commas. Default: all bundled
    ones."""
    out: Path = Path("out/monitor")
    """Folder to write."""
    fit_limits: Path | None = None
    """Take the log for ordinary: fit drift limits on it, and write them to this folder."""

    def __post_init__(self) -> None:
        check_writable("--out", self.out, is_file=False)
        if self.fit_limits is not None:
            check_writable("--fit-limits", self.fit_limits, is_file=False)


def command(
    data: str,
    /,
    *,
    inputs: MonitorInputs = MonitorInputs(),
    config: MonitorConfig = MonitorConfig(),
    model: ModelOptions = ModelOptions(),
    engine: EngineOptions = EngineOptions(),
    output: PrintOptions = PrintOptions(),
) -> None:
    """Read logged conversations along every trait, turn by turn, and raise drift alarms.

    Example: `personavec monitor log.jsonl --vectors evil,sycophantic --out out/monitor`

    Writes a reading for every assistant turn, and a report. A killed run continues with the same
    command.

    Parameters
    ----------
    data
        A JSONL, JSON, CSV or Parquet file of conversations, or a folder.
    """
    from personavec.monitor import run, summarised
    from personavec.monitor.terminal import show
    from personavec.vectors import bundled_vectors, load_vector

    vectors = [load_vector(name) for name in inputs.vectors or bundled_vectors()]
    loaded = model.load()
    results = run(
        loaded,
        vectors,
        data,
        inputs.out,
        config,
        fit_limits=inputs.fit_limits,
        engine=engine.start(loaded),
    )
    if output.as_json:
        print_json(summarised(results))
    else:
        show(results)
