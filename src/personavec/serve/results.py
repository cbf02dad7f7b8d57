"""What `personavec serve --json` prints once it serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from personavec.monitor.ordinary import Stopped


@dataclass(frozen=True, kw_only=True)
class ServeResult:
    """Where a server answers, and with what."""

    format: int = 1
    address: str
    """Its URL, without `/v1`."""
    model: str
    """The model's name for clients."""
    vectors: list[str]
    """The traits that are read and can be steered."""
    ordinary: list[Stopped]
    """For each guard and each vector's drift alarm: the ordinary dialogues it would act in."""
