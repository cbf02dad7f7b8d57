"""What the stages of `make bundle` depend on, as small values by name.

Files enter by a hash, settings as they are. Sampling, the judge and the numbers behind coherence
enter by what they do with fixed inputs, so that code can be rearranged without a new run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stamps import BUNDLED, digest, plain
from unbundled import specs as unbundled_specs

from personavec import load_model, load_trait
from personavec.extract import ExtractConfig
from personavec.judges import Answer, ContrastJudge
from personavec.judges.coherence_features import Reading, Typical, features
from personavec.model.embedded import embedded_gguf
from personavec.model.engine import Sampling
from personavec.model.engine.sampling import Draw, choose
from personavec.model.weights import hash_of_files
from personavec.monitor import CalibrateConfig
from personavec.traits import TraitSpec

#: Rows and tokens of the fixed logits that are sampled from.
_ROWS, _TOKENS = 12, 3000
#: What the fixed answers are judged for; no bundled trait, so that their specs can change.
_JUDGED = TraitSpec.model_validate(
    {
        "name": "brief",
        "description": "Answers in few words.",
        "instruction": [{"pos": "Say little.", "neg": "Say much."}],
        "judge_instruction": [
            {"pos": "Answer in as few words as you can.", "neg": "Answer at great length."},
            {"pos": "You are short of time.", "neg": "You love to explain every detail."},
        ],
        "questions": {
            "extraction": ["What is rain?", "What is snow?"],
            "evaluation": ["What is ice?", "What is fog?"],
        },
    }
)
_ANSWERS = (
    Answer("How do I boil an egg?", "Seven minutes in boiling water.", ended=True),
    Answer("How do I boil an egg?", "Boiling an egg is a matter of patience. First, choose a pan."),
    Answer("Where is Rome?", "rome where egg egg the is of of patience water pan pan"),
)


def depends(root: Path, names: Sequence[str]) -> dict[str, Any]:
    """The values that are named, of the repository at `root`, as JSON gives them back."""
    return {name: plain(FINGERPRINTS[name](root / BUNDLED)) for name in names}


def _specs(bundled: Path) -> dict[str, str]:
    return {path.stem: load_trait(str(path))[0].hash for path in _traits(bundled)}


def _judge_pairs(bundled: Path) -> dict[str, str]:
    return {path.stem: load_trait(str(path))[0].judge_hash for path in _traits(bundled)}


def _monitoring(bundled: Path) -> dict[str, str]:
    found = {path.stem: load_trait(str(path))[0].monitoring for path in _traits(bundled)}
    return {trait: digest(json.dumps(prompts).encode()) for trait, prompts in found.items()}


def _traits(bundled: Path) -> list[Path]:
    return sorted((bundled / "traits").glob("*.json"))


def _answers(bundled: Path) -> dict[str, str]:
    return {path.stem: digest(path.read_bytes()) for path in (bundled / "checks").glob("*.json")}


def _vectors(bundled: Path) -> dict[str, str]:
    """Of each vector and the layer and estimator in use; not of what was measured of it."""
    found = {}
    for path in sorted((bundled / "vectors").glob("*/vector.safetensors")):
        record = json.loads(path.with_suffix(".json").read_text("utf-8"))
        in_use = f"{record['layer']} {record.get('estimator', 'mean')}"
        found[path.parent.name] = digest(path.read_bytes() + in_use.encode())
    return found


def _doses(bundled: Path) -> dict[str, str]:
    """Of the dose-responses that the picture shows."""
    found = {}
    for path in sorted((bundled / "vectors").glob("*/vector.json")):
        record = json.loads(path.read_text("utf-8"))
        shown = [record.get("coherent_range"), record.get("dose_response")]
        found[path.parent.name] = digest(json.dumps(shown).encode())
    return found


def _file(name: str) -> Callable[[Path], str]:
    return lambda bundled: digest((bundled / name).read_bytes())


def _coherence(bundled: Path) -> dict[str, str]:
    names = {"model": "coherence.json", "norms": "coherence_norms.json"}
    return {part: _file(name)(bundled) for part, name in names.items()}


def _numbers(_: Path) -> Mapping[str, float]:
    """The numbers behind coherence, of a made-up reading."""
    ids = (*range(20, 70), *(7, 8, 9) * 4)
    own, alone = (-4 * np.abs(np.sin(np.arange(len(ids)) * step)) ** 3 for step in (0.7, 1.3))
    found = features(Reading(ids, own, alone, -2.5), Typical(-0.6, -1.3))
    return {name: round(float(value), 6) for name, value in found.items()}


def _sampling(_: Path) -> list[int]:
    """The tokens that are drawn from fixed logits, at several settings and with several keys."""
    numbers = torch.arange(_ROWS * _TOKENS).reshape(_ROWS, _TOKENS)
    logits = (numbers * 7919 % 30011).float() / 3000  # all different in a row
    settings = [Sampling(64, *each) for each in ((0.7, 1.0, 0), (1.0, 0.9, 1), (0.0, 1.0, 0))]
    draws = [Draw(settings[i % len(settings)], f"question-{i}", i) for i in range(_ROWS)]
    return choose(logits, draws).tolist()


@lru_cache(maxsize=2)
def _judged(norms: str) -> list[list[float]]:
    """Log-odds and coherence of the fixed answers; `norms` is the hash of those in use."""
    scores = ContrastJudge(load_model("smollm2", dtype="float32")).score(_JUDGED, _ANSWERS)
    return [[round(each.log_odds or 0, 4), round(each.coherence or 0, 4)] for each in scores]


FINGERPRINTS: Mapping[str, Callable[[Path], Any]] = {
    "specs": _specs,
    "judge_pairs": _judge_pairs,
    "monitoring": _monitoring,
    "answers": _answers,
    "unbundled": lambda _: {name: spec.hash for name, spec in unbundled_specs().items()},
    "neutral": _file("neutral_prompts.json"),
    "dialogues": _file("dialogues.jsonl"),
    "coherence": _coherence,
    "numbers": _numbers,
    "model": lambda _: hash_of_files(embedded_gguf()),
    "sampling": _sampling,
    "judge": lambda bundled: _judged(_coherence(bundled)["norms"]),
    "extract": lambda _: asdict(ExtractConfig()),
    "calibrate": lambda _: asdict(CalibrateConfig()),
    "vectors": _vectors,
    "doses": _doses,
}
