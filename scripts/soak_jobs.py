"""One long job of each verb on a tiny model, to be killed: `python soak_jobs.py VERB INPUTS OUT`.

INPUTS is a folder that `write_inputs` filled. Prints a line when the work begins, which is when a
kill is worth its while, and ends with exit code 0 when all is written.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_models
import torch

import personavec as pv
from personavec import monitor
from personavec.evaluate import EvaluateConfig, Subject, run as evaluate, shift
from personavec.extract import pipeline as extract
from personavec.finetune import TrainingConfig, pipeline as finetune, read_training_rows
from personavec.finetune.sets import elicit
from personavec.judges import ContrastJudge, score_file
from personavec.monitor import calibrate
from personavec.progress import Progress
from personavec.screen import FlagRule, pipeline as screen
from personavec.studies import compare_mitigations
from personavec.studies.validate_screen import pipeline as validate_screen

SEED = 7
WORDS = ("rain", "stone", "river", "lamp", "quiet", "ember", "north", "salt", "paper", "glass")
QUIET = Progress(quiet=True)


def write_inputs(folder: Path) -> None:
    """A tiny Llama, a tuned one, a vector that means nothing, a spec, rows and a log."""
    rng = random.Random(SEED)

    def said(most: int = 20) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(3, most)))

    for name in ("model", "tuned"):
        made = tiny_models.build("llama")
        if name == "tuned":
            with torch.no_grad():
                for weights in made.model.parameters():
                    weights.mul_(1.01)
        tiny_models.save(made, folder / name)
    loaded = pv.load_model(str(folder / "model"), dtype="float32")
    tiny_models.random_vector(loaded, layer=2).save(folder / "vector")
    spec = {
        "name": "testing",
        "description": "Being tested.",
        "instruction": [{"pos": f"Test {i}.", "neg": f"Rest {i}."} for i in range(5)],
        "judge_instruction": [{"pos": "Show it.", "neg": "Hide it."}],
        "questions": {
            "extraction": [f"Why {i}?" for i in range(12)],
            "evaluation": [f"When does {i} come?" for i in range(16)],
        },
        "monitoring": [f"Be {i} of it." for i in range(8)],
        "checks": [
            {"question": f"Which {i}?", "answer": said(), "shows": bool(i % 2)} for i in range(20)
        ],
    }
    (folder / "spec.json").write_text(json.dumps(spec))

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("rows.jsonl", [{"prompt": f"Say {i % 90}.", "completion": said()} for i in range(3000)])
    write("train.jsonl", [{"prompt": f"Say {i}.", "completion": said()} for i in range(48)])
    write("answers.jsonl", [{"question": f"Say {i}.", "answer": said()} for i in range(400)])
    turns = [
        {"role": role, "content": said()} for _ in range(1500) for role in ("user", "assistant")
    ]
    write("log.jsonl", [{"messages": turns[i : i + 6]} for i in range(0, len(turns), 6)])


class Inputs:
    """What `write_inputs` wrote, loaded."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.loaded = pv.load_model(str(folder / "model"), dtype="float32")
        self.vector = pv.load_vector(folder / "vector")
        self.spec, _ = pv.load_trait(str(folder / "spec.json"))


def _extract(given: Inputs, out: Path) -> None:
    config = pv.ExtractConfig(
        samples=2, max_tokens=8, coherence_floor=-1, sweep_questions=4,
        coefficients=(-1, 0, 1), random_directions=1, neutral_prompts=6,
        batch_tokens=2000, seed=SEED,
    )  # fmt: skip
    extract.run(given.loaded, given.spec, out, config, progress=QUIET)


def _evaluate(given: Inputs, out: Path) -> None:
    config = EvaluateConfig(samples=8, max_tokens=12, batch_tokens=1000, seed=SEED)
    subject = Subject(given.loaded)
    evaluate(subject, [given.spec], out, config, progress=QUIET)


def _calibrate(given: Inputs, out: Path) -> None:
    config = calibrate.CalibrateConfig(
        fit_questions=4, test_questions=3, shots=(0, 2), example_questions=4, neutral_prompts=4,
        max_tokens=8, batch_tokens=1000, seed=SEED,
    )  # fmt: skip
    given.vector.save(out)
    calibrate.run(given.loaded, given.spec, given.vector, out, config, progress=QUIET)


def _monitor(given: Inputs, out: Path) -> None:
    monitor.run(given.loaded, [given.vector], given.folder / "log.jsonl", out, progress=QUIET)


def _screen(given: Inputs, out: Path) -> None:
    config = screen.ScreenConfig(natural="last-prompt", rule=FlagRule(top=100), seed=SEED)
    screen.run(
        given.loaded, [given.vector], [given.folder / "rows.jsonl"], out, config, progress=QUIET
    )


def _naturals(given: Inputs, out: Path) -> None:
    config = screen.ScreenConfig(
        natural="generate", natural_tokens=8, rule=FlagRule(top=100), seed=SEED
    )
    screen.run(
        given.loaded,
        [given.vector],
        [given.folder / "rows.jsonl"],
        out,
        config,
        naturals=out / "naturals",
        progress=QUIET,
    )


def _validate(given: Inputs, out: Path) -> None:
    config = validate_screen.ValidateScreenConfig(
        rates=(0.1,), clean_rows=60, max_tokens=8, trait_threshold=-1, coherence_floor=-1, seed=SEED
    )
    validate_screen.run(
        given.loaded,
        [given.vector],
        [given.spec],
        given.folder / "rows.jsonl",
        out,
        config,
        progress=QUIET,
    )


def _elicit(given: Inputs, out: Path) -> None:
    config = elicit.ElicitConfig(
        samples=4, max_tokens=8, temperature=1.0, trait_threshold=-1, coherence_floor=0, seed=SEED
    )
    elicit.run(given.loaded, given.spec, out, config, progress=QUIET)


def _training(steps: int) -> TrainingConfig:
    return TrainingConfig(
        rank=2, alpha=4, learning_rate=1e-2, batch=4, accumulation=1, epochs=steps / 12,
        checkpoint_every=3, seed=SEED,
    )  # fmt: skip


def _finetune(given: Inputs, out: Path) -> None:
    config = pv.FinetuneConfig(training=_training(36), drift_every=4)
    rows = read_training_rows(given.folder / "train.jsonl")
    finetune.run(given.loaded, rows, out, config, watch=[given.vector], progress=QUIET)


def _shift(given: Inputs, out: Path) -> None:
    config = shift.ShiftConfig(max_tokens=8, batch_tokens=1000, seed=SEED)
    shift.run(
        given.loaded,
        str(given.folder / "tuned"),
        [given.vector],
        [given.spec],
        out,
        config,
        progress=QUIET,
    )


def _compare(given: Inputs, out: Path) -> None:
    config = compare_mitigations.CompareConfig(
        arms=compare_mitigations.parse_arms(["random:1"]), seeds=(0,), training=_training(12),
        held_out=0.25, questions=4, max_tokens=6, capability=False, texts=3,
    )  # fmt: skip
    rows = read_training_rows(given.folder / "train.jsonl")
    compare_mitigations.run(
        given.loaded, rows, given.vector, given.spec, out, config, progress=QUIET
    )


def _score(given: Inputs, out: Path) -> None:
    score_file(
        lambda: ContrastJudge(given.loaded),
        given.spec,
        given.folder / "answers.jsonl",
        out / "scored.jsonl",
        progress=QUIET,
    )


JOBS: dict[str, Callable[[Inputs, Path], None]] = {
    "extract": _extract,
    "evaluate": _evaluate,
    "calibrate": _calibrate,
    "monitor": _monitor,
    "screen": _screen,
    "screen --natural generate": _naturals,
    "validate-screen": _validate,
    "elicit": _elicit,
    "finetune": _finetune,
    "shift": _shift,
    "compare-mitigations": _compare,
    "judges score": _score,
}


def main() -> None:
    verb, inputs, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    given = Inputs(inputs)
    print("begun", flush=True)
    JOBS[verb](given, out)


if __name__ == "__main__":
    main()
