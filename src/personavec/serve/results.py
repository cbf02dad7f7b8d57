"""The object that `personavec serve --json` prints once it serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from personavec.monitor.ordinary import OrdinaryCheck


@dataclass(frozen=True, kw_only=True)
class ServeResult:
    """A running server's address, model and vectors."""

    format: int = 1
    address: str
    """Its URL, without `/v1`."""
    model: str
    """The model's name for clients."""
    vectors: list[str]
    """The traits that are read and can be steered with."""
    ordinary: list[OrdinaryCheck]
    """For each guard and drift alarm, the ordinary dialogues in which it would act."""
