"""What every verb's results share: the versions they depend on, and JSON without NaN."""

from __future__ import annotations

import math
from importlib import metadata
from typing import Any


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {name: metadata.version(name) for name in ("personavec", "torch", "transformers")}


def without_nan(value: Any) -> Any:
    """`value` with null for every number that is not finite, since JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
