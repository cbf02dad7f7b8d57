"""One long job of each verb on a tiny model, to be killed: `python soak_jobs.py VERB INPUTS OUT`.

INPUTS is a folder that `write_inputs` filled. Prints a line when the work begins, which is when a
kill is worth its while, and ends with exit code 0 when all is written.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from verb_jobs import JOBS, Given, lay_vector, spec, write_model, write_rows

import personavec as pv
from personavec.evaluate import EvaluateConfig, shift
from personavec.finetune import TrainingConfig
from personavec.finetune.sets import elicit
from personavec.monitor import MonitorConfig, calibrate
from personavec.screen import FlagRule, pipeline as screen
from personavec.studies import compare_mitigations
from personavec.studies.validate_screen import pipeline as validate_screen

SEED = 7
WORDS = ("rain", "stone", "river", "lamp", "quiet", "ember", "north", "salt", "paper", "glass")


def write_inputs(folder: Path) -> None:
    """A tiny Llama, a tuned one, a vector that means nothing, a spec, rows and a log."""
    rng = random.Random(SEED)

    def said(most: int = 20) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(3, most)))

    write_model(folder)
    checks = [
        {"question": f"Which {i}?", "answer": said(), "shows": bool(i % 2)} for i in range(20)
    ]
    (folder / "spec.json").write_text(json.dumps(spec(5, 16) | {"checks": checks}))

    def completions(n: int, questions: int) -> list[dict[str, Any]]:
        return [{"prompt": f"Say {i % questions}.", "completion": said()} for i in range(n)]

    write_rows(folder / "rows.jsonl", completions(3000, 90))
    write_rows(folder / "train.jsonl", completions(48, 48))
    answers = [{"question": f"Say {i}.", "answer": said()} for i in range(400)]
    write_rows(folder / "answers.jsonl", answers)
    turns = [
        {"role": role, "content": said()} for _ in range(1500) for role in ("user", "assistant")
    ]
    log = [{"messages": turns[i : i + 6]} for i in range(0, len(turns), 6)]
    write_rows(folder / "log.jsonl", log)


def _training(steps: int) -> TrainingConfig:
    return TrainingConfig(
        rank=2, alpha=4, learning_rate=1e-2, batch=4, accumulation=1, epochs=steps / 12,
        checkpoint_every=3, seed=SEED,
    )  # fmt: skip


#: The jobs that last long enough to be killed, each with its config.
CONFIGS: dict[str, Any] = {
    "extract": pv.ExtractConfig(
        samples=2, max_tokens=8, coherence_floor=-1, sweep_questions=4,
        coefficients=(-1, 0, 1), random_directions=1, neutral_prompts=6,
        batch_tokens=2000, seed=SEED,
    ),
    "evaluate": EvaluateConfig(samples=8, max_tokens=12, batch_tokens=1000, seed=SEED),
    "calibrate": calibrate.CalibrateConfig(
        fit_questions=4, test_questions=3, shots=(0, 2), example_questions=4, neutral_prompts=4,
        max_tokens=8, batch_tokens=1000, seed=SEED,
    ),
    "monitor": MonitorConfig(),
    "screen": screen.ScreenConfig(natural="last-prompt", rule=FlagRule(top=100), seed=SEED),
    "screen with naturals": screen.ScreenConfig(
        natural="generate", natural_tokens=8, rule=FlagRule(top=100), seed=SEED
    ),
    "validate-screen": validate_screen.ValidateScreenConfig(
        rates=(0.1,), clean_rows=60, max_tokens=8, trait_threshold=-1, coherence_floor=-1,
        seed=SEED,
    ),
    "elicit": elicit.ElicitConfig(
        samples=4, max_tokens=8, temperature=1.0, trait_threshold=-1, coherence_floor=0, seed=SEED
    ),
    "finetune": pv.FinetuneConfig(training=_training(36), drift_every=4),
    "shift": shift.ShiftConfig(max_tokens=8, batch_tokens=1000, seed=SEED),
    "compare-mitigations": compare_mitigations.CompareConfig(
        arms=compare_mitigations.parse_arms(["random:1"]), seeds=(0,), training=_training(12),
        held_out=0.25, questions=4, max_tokens=6, capability=False, texts=3,
    ),
    "judges score": None,
}  # fmt: skip


def main() -> None:
    verb, inputs, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    out.parent.mkdir(parents=True, exist_ok=True)
    given = Given.read(inputs)
    if verb == "calibrate":
        lay_vector(given, out)
    print("begun", flush=True)
    JOBS[verb](given, CONFIGS[verb], out)


if __name__ == "__main__":
    main()
