"""Import `on_ray.py` when it is needed, since Ray is an optional dependency."""

from __future__ import annotations

from typing import Any

from personavec.errors import missing_extra


def cluster() -> Any:
    """The module `on_ray`. Raises PersonavecError if Ray is not installed."""
    try:
        from personavec.screen.cluster import on_ray
    except ImportError:
        raise missing_extra("ray") from None
    return on_ray
