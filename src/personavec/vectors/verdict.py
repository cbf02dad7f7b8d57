"""Whether steering with a vector worked, as its `vector.json` says it. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal, TypeAlias, get_args

#: Of a validation by steering; not decided where its intervals are too wide.
Verdict: TypeAlias = Literal["passed", "failed", "not decided"]


def verdict_of(meta: Mapping[str, Any]) -> Verdict | None:
    """The verdict in what a `vector.json` holds; None where it says none."""
    found = meta.get("verdict")
    if found is None and isinstance(passed := meta.get("passed"), bool):
        # As files said it before a verdict could be left open.
        found = "passed" if passed else "failed"
    return found if found in get_args(Verdict) else None


def bundled_verdicts() -> dict[str, Verdict | None]:
    """The verdicts of the bundled vectors, by trait."""
    folder = resources.files("personavec") / "bundled" / "vectors"
    vectors = sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: p.name)
    return {
        vector.name: verdict_of(json.loads((vector / "vector.json").read_text("utf-8")))
        for vector in vectors
    }
