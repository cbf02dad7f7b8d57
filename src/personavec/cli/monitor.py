"""personavec monitor"""

from __future__ import annotations

from personavec.cli.groups import EngineOptions, ModelOptions, PrintOptions, ReportOptions
from personavec.monitor.config import MonitorConfig, MonitorInputs
from personavec.terminal import Ending, Next, print_json


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
    from personavec.monitor.conclusion import conclusion
    from personavec.monitor.terminal import show

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
    if output.as_json:
        print_json(summarised(results))
    else:
        show(results)
    ending = Ending(
        conclusion=conclusion(results),
        written=inputs.out / "report.html",
        next=Next(
            "raise such alarms while a model is served",
            ("serve", "--vectors", ",".join(inputs.vectors or results.traits), *model.named()),
        ),
    )
    report.end(ending, as_json=output.as_json)
