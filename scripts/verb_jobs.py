"""Every verb as a job on a tiny model, for runs that are killed or whose files are damaged.

How much a job does is said by the config that is given to it: `soak_jobs.py` has long ones to
kill, `tests/unit/test_damage.py` short ones to repeat.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_models
import torch

import personavec as pv
from personavec import LoadedModel, PersonaVector, TraitSpec, monitor
from personavec.author import AuthorConfig, pipeline as author
from personavec.evaluate import EvaluateConfig, Subject, run as evaluate, shift, steer
from personavec.extract import ExtractConfig, pipeline as extract
from personavec.finetune import FinetuneConfig, pipeline as finetune, read_training_rows
from personavec.finetune.sets import elicit
from personavec.judges import ContrastJudge, Endpoint, score_file
from personavec.monitor import calibrate
from personavec.progress import Progress
from personavec.screen import pipeline as screen
from personavec.studies import compare_mitigations
from personavec.studies.validate_screen import pipeline as validate_screen

QUIET = Progress(quiet=True)


@dataclass(frozen=True)
class Given:
    """What jobs work on."""

    folder: Path
    """Holds the models, a vector, specs, rows and a log, as `write_model` and its users wrote."""
    loaded: LoadedModel
    vector: PersonaVector
    spec: TraitSpec
    wide: TraitSpec
    """A spec with enough evaluation questions for rows to be planted from their answers."""
    endpoint: Endpoint | None = None
    """Where `author` finds its author."""

    @classmethod
    def read(cls, folder: Path, *, device: str | None = None) -> Given:
        """Load what lies in a folder."""
        spec, wide = (folder / "spec.json", folder / "wide.json")
        return cls(
            folder,
            pv.load_model(str(folder / "model"), dtype="float32", device=device),
            pv.load_vector(folder / "vector"),
            pv.load_trait(str(spec))[0],
            pv.load_trait(str(wide if wide.exists() else spec))[0],
        )


def write_model(folder: Path) -> None:
    """A tiny Llama, a tuned one, and a vector that means nothing."""
    for name in ("model", "tuned"):
        made = tiny_models.build("llama")
        if name == "tuned":
            with torch.no_grad():
                for weights in made.model.parameters():
                    weights.mul_(1.01)
        tiny_models.save(made, folder / name)
    loaded = pv.load_model(str(folder / "model"), dtype="float32", device="cpu")
    tiny_models.random_vector(loaded, layer=2).save(folder / "vector")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as lines of JSON."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def spec(pairs: int, evaluation: int) -> dict[str, Any]:
    """A spec with so many instruction pairs and evaluation questions."""
    return {
        "name": "testing",
        "description": "Being tested.",
        "instruction": [{"pos": f"Test {i}.", "neg": f"Rest {i}."} for i in range(pairs)],
        "judge_instruction": [{"pos": "Show it.", "neg": "Hide it."}],
        "questions": {
            "extraction": [f"Why {i}?" for i in range(12)],
            "evaluation": [f"When does {i} come?" for i in range(evaluation)],
        },
        "monitoring": [f"Be {i} of it." for i in range(8)],
    }


def _extract(given: Given, config: ExtractConfig, out: Path) -> None:
    extract.run(given.loaded, given.spec, out, config, progress=QUIET)


def _evaluate(given: Given, config: EvaluateConfig, out: Path) -> None:
    evaluate(Subject(given.loaded), [given.spec], out, config, progress=QUIET)


def lay_vector(given: Given, out: Path) -> None:
    """What `calibrate` writes into: a copy of the vector's folder, if there is none."""
    if not out.exists():
        given.vector.save(out)


def _calibrate(given: Given, config: calibrate.CalibrateConfig, out: Path) -> None:
    lay_vector(given, out)
    vector = pv.load_vector(out)
    calibrate.run(given.loaded, given.spec, vector, out, config, progress=QUIET)


def _monitor(given: Given, config: monitor.MonitorConfig, out: Path) -> None:
    log = given.folder / "log.jsonl"
    monitor.run(given.loaded, [given.vector], log, out, config, progress=QUIET)


def _screen(given: Given, config: screen.ScreenConfig, out: Path) -> None:
    rows = [given.folder / "rows.jsonl"]
    naturals = out / "naturals" if config.natural != "last-prompt" else None
    screen.run(given.loaded, [given.vector], rows, out, config, naturals=naturals, progress=QUIET)


def _validate(given: Given, config: validate_screen.ValidateScreenConfig, out: Path) -> None:
    many = given.folder / "many.jsonl"
    rows = many if many.exists() else given.folder / "rows.jsonl"
    vectors, specs = [given.vector], [given.wide]
    validate_screen.run(given.loaded, vectors, specs, rows, out, config, progress=QUIET)


def _elicit(given: Given, config: elicit.ElicitConfig, out: Path) -> None:
    elicit.run(given.loaded, given.spec, out, config, progress=QUIET)


def _finetune(given: Given, config: FinetuneConfig, out: Path) -> None:
    rows = read_training_rows(given.folder / "train.jsonl")
    finetune.run(given.loaded, rows, out, config, watch=[given.vector], progress=QUIET)


def _compare(given: Given, config: compare_mitigations.CompareConfig, out: Path) -> None:
    rows = read_training_rows(given.folder / "train.jsonl")
    compare_mitigations.run(
        given.loaded, rows, given.vector, given.spec, out, config, progress=QUIET
    )


def _shift(given: Given, config: shift.ShiftConfig, out: Path) -> None:
    tuned = str(given.folder / "tuned")
    shift.run(given.loaded, tuned, [given.vector], [given.spec], out, config, progress=QUIET)


def _score(given: Given, config: None, out: Path) -> None:
    out.mkdir(exist_ok=True)
    answers, scored = given.folder / "answers.jsonl", out / "scored.jsonl"
    score_file(lambda: ContrastJudge(given.loaded), given.spec, answers, scored, progress=QUIET)


def _steer(given: Given, config: steer.SteerConfig, out: Path) -> None:
    out.mkdir(exist_ok=True)
    answers = out / "answers.jsonl"
    steer.run(given.loaded, given.vector, ["Hi?", "Why?"], config, out=answers)


def _author(given: Given, config: AuthorConfig, out: Path) -> None:
    assert given.endpoint is not None
    author.run(given.endpoint, "wacky", "Tries to amuse.", out, config, progress=QUIET)


#: A job takes what is given, the verb's config and a folder to write into.
JOBS: dict[str, Callable[[Given, Any, Path], None]] = {
    "extract": _extract,
    "evaluate": _evaluate,
    "calibrate": _calibrate,
    "monitor": _monitor,
    "screen": _screen,
    "screen with naturals": _screen,
    "validate-screen": _validate,
    "elicit": _elicit,
    "finetune": _finetune,
    "compare-mitigations": _compare,
    "shift": _shift,
    "judges score": _score,
    "steer": _steer,
    "author": _author,
}
