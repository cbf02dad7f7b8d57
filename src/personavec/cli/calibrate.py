"""personavec calibrate"""

from __future__ import annotations

from personavec.cli.groups import ModelOptions, PrintOptions
from personavec.judges.config import PlainJudgeOptions
from personavec.monitor.config import CalibrateConfig, CalibrateInputs
from personavec.terminal import log


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
    beside = inputs.out is None
    output.tell(
        summarised_calibration(found, folder),
        lambda: show_calibration(found, folder, model.named() if beside else None),
    )
