"""personavec steer"""

from __future__ import annotations

from dataclasses import replace

from personavec.cli.groups import EngineOptions, ModelOptions, OutputOptions
from personavec.evaluate.steer.config import SteerConfig, SteerInputs
from personavec.results import dump
from personavec.terminal import Ending, Next, log, print_json


def command(
    *questions: str,
    inputs: SteerInputs = SteerInputs(),
    config: SteerConfig = SteerConfig(),
    model: ModelOptions = ModelOptions(),
    engine: EngineOptions = EngineOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Answers at several coefficients side by side, the system-prompted answer beside them.

    Example: `personavec steer "How was your day?" --vectors optimistic`

    Parameters
    ----------
    questions
        Questions to answer; or use --file.
    """
    from personavec.data.terminal import show_reading
    from personavec.evaluate.steer import choose_coefficients, run, run_folder
    from personavec.evaluate.steer.questions import read, readings
    from personavec.evaluate.steer.terminal import answers_shown, show_choice, show_end
    from personavec.vectors import check_layer, load_vector

    asked = read(questions, inputs.file)
    out = output.file(output.out) if output.out else None
    vector = load_vector(inputs.vectors)
    check_layer(config.layer, [vector])
    chosen = choose_coefficients(vector, config)
    loaded = model.load()
    if warning := vector.other_model_warning(*loaded.identity.lineage):
        log(f"warning: {warning}")
    texts = [text for each in asked for text in each.texts]
    begun = run_folder(out) if out else None
    tokens = config.max_tokens * len(texts) * (len(chosen.values) + 1)
    running = engine.resolved(loaded, folder=begun, tokens=tokens)
    started = running.start(loaded, config.batch_tokens)
    if output.as_json:
        results = run(loaded, vector, texts, config, out=out, engine=started)
        results = replace(results, data=readings(asked, loaded))
        print_json(dump(results))
    else:
        show_reading(readings(asked, loaded))
        show_choice(vector, loaded.identity.name, chosen)
        with answers_shown(vector.trait) as screen:
            results = run(loaded, vector, texts, config, out=out, engine=started, show=screen.take)
        command = ("serve", "--vectors", inputs.vectors, *model.named())
        to = "talk to the model on a page, and slide the trait"
        show_end(results, config.max_tokens, Ending(written=out, next=Next(to, command)))
    results.check_answered(loaded.identity.dtype)
