"""A replication of which every size is cut until a tiny random model goes through it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from personavec import LoadedModel, TraitSpec
from personavec.progress import Progress
from personavec.studies.replicate import Inputs, ReplicateConfig, Sources, Study

TRAITS = ("odd", "loud")
#: Sizes as a file of options has them; a tiny random model shows no trait and no sense.
SIZES: dict[str, Any] = {
    "traits": TRAITS,
    "answer_tokens": 4,
    "answers": 1,
    "questions": 3,
    "expression_questions": 2,
    "shots": (0, 2),
    "accumulation": 1,
    "texts": 2,
    "judge_pairs": 1,
    "extraction_preset": "quick",
    "rollouts": 2,
    "monitored": TRAITS[:1],
    "monitoring_preset": "quick",
    "elicited": TRAITS[:1],
    "elicited_answers": 4,
    "flawed": ("sums",),
    "set_rows": 4,
    "judged_rows": 2,
    "seeds": (0, 1),
    "rank": 2,
    "learning_rate": 1e-2,
    "epochs": 1.0,
    "mitigated": TRAITS[:1],
    "arms": ("preventative:1", "random:1", "steering:-1"),
    "elsewhere": False,
    "mitigation_seeds": (0,),
    "capability_items": 2,
    "real_traits": TRAITS[:1],
    "chat_rows": 24,
    "real_rows": 4,
    "real_tokens": 12,
    "real_seeds": (0, 1),
    "persistent": TRAITS[:1],
    "persistence_questions": 3,
    "persistence_tokens": 96,
    "dialogue_rows": 4,
    "coherence_floor": 0,
}


def spec(name: str) -> TraitSpec:
    """A short one: every character is a token of a tiny model."""
    return TraitSpec.model_validate(
        {
            "name": name,
            "description": f"Being {name}.",
            "instruction": [
                {"pos": f"Be {name}, {i}.", "neg": f"Be plain, {i}."} for i in range(2)
            ],
            "judge_instruction": [{"pos": f"{name}!", "neg": "Not so!"}],
            "questions": {
                "extraction": [f"Why {i}, {name}?" for i in range(12)],
                "evaluation": [f"When {i}, {name}?" for i in range(6)],
            },
            "monitoring": [f"{name} {i}." for i in range(8)],
        }
    )


def write_chats(path: Path, rows: int = 30) -> Path:
    """Three answers of different lengths to each question."""
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"Ask {i // 3}?"},
                {"role": "assistant", "content": f"So {'on ' * (1 + i % 5)}{i}."},
            ]
        }
        for i in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_dialogues(path: Path, rows: int = 6, turns: int = 4) -> Path:
    """Conversations of several turns."""
    lines = [
        {
            "messages": [
                {"role": role, "content": f"{role} {i} {turn}."}
                for turn in range(turns)
                for role in ("user", "assistant")
            ]
        }
        for i in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_options(path: Path) -> Path:
    """The sizes as a file of options; traits are files of specs, in the same folder."""
    files = {name: str(path.parent / f"{name}.json") for name in TRAITS}
    for name, file in files.items():
        Path(file).write_text(spec(name).model_dump_json())
    lines = []
    for name, value in SIZES.items():
        # Values of JSON are values of TOML.
        texts = [files.get(v, v) for v in value] if isinstance(value, tuple) else value
        lines.append(f"{'trait' if name == 'traits' else name} = {json.dumps(texts)}\n")
    path.write_text("".join(lines))
    return path


def inputs(data: Path | None = None, **changes: Any) -> Inputs:
    """With chats and dialogues, which are written into the folder `data`; without one, without."""
    sources = Sources()
    if data is not None:
        chats, dialogues = data / "chats.jsonl", data / "dialogues.jsonl"
        if not chats.exists():
            write_chats(chats)
            write_dialogues(dialogues)
        sources = replace(sources, chats=str(chats), dialogues=str(dialogues))
    return Inputs(
        ReplicateConfig(**{**SIZES, **changes}), {name: spec(name) for name in TRAITS}, sources
    )


def study(loaded: LoadedModel, given: Inputs, out: Path) -> Study:
    return Study(given, loaded, out, progress=Progress(quiet=True))
