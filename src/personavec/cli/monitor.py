"""personavec monitor"""

from __future__ import annotations

from personavec.cli.groups import EngineOptions, ModelOptions, PrintOptions, ReportOptions
from personavec.monitor.config import MonitorConfig, MonitorInputs
from personavec.report.config import FigureOptions


def command(
    data: str,
    /,
    *,
    inputs: MonitorInputs = MonitorInputs(),
    config: MonitorConfig = MonitorConfig(),
    model: ModelOptions = ModelOptions(),
    engine: EngineOptions = EngineOptions(),
    output: PrintOptions = PrintOptions(),
    report: ReportOptions = ReportOptions(),
    figures: FigureOptions = FigureOptions(),
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
    from personavec.monitor import paper_plots, run, summarised
    from personavec.monitor.terminal import ending, show

    vectors = inputs.load()
    loaded = model.load()
    results = run(
        loaded,
        vectors,
        data,
        inputs.out,
        config,
        fit_limits=inputs.fit_limits,
        engine=engine.resolved(loaded, folder=inputs.out, tokens=0).start(loaded),
    )
    figures.save(paper_plots, results)
    end = ending(results, inputs.vectors, model.named())
    report.end(output, summarised(results), lambda: show(results), end)
