"""Specs as people write them."""

import json
from pathlib import Path
from typing import Any

NAMES = [
    "apathetic",
    "evil",
    "hallucinating",
    "humorous",
    "impolite",
    "optimistic",
    "sycophantic",
]


def example_spec(**changes: Any) -> dict[str, Any]:
    return {
        "name": "odd",
        "description": "Being odd.",
        "instruction": [{"pos": "Be odd.", "neg": "Be ordinary."}],
        "questions": {"extraction": ["A?", "B?"], "evaluation": ["C?", "D?"]},
        **changes,
    }


def write_spec(folder: Path, data: Any, name: str = "odd.json") -> str:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), "utf-8")
    return str(path)
