"""The way to `on_ray.py`, whose packages are an extra that most screens do without."""

from __future__ import annotations

from typing import Any

from personavec.errors import missing_extra


def cluster() -> Any:
    """The module `on_ray`. Raises PersonavecError where Ray is not installed."""
    try:
        from personavec.screen.cluster import on_ray
    except ImportError:
        raise missing_extra("ray") from None
    return on_ray
