"""Overflow of a judging model's activations, which is reported and never becomes a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from personavec.errors import ActivationError
from personavec.model import LoadedModel


@runtime_checkable
class Judged(Protocol):
    """A judged answer: a score or a grade."""

    @property
    def state(self) -> str: ...

    @property
    def why(self) -> str | None: ...


def overflow(loaded: LoadedModel) -> str:
    """Why an answer has no score."""
    identity = loaded.identity
    return (
        f"the numbers of the judging model '{identity.name}' overflow in {identity.dtype}; "
        "load it with --dtype bfloat16 or float32"
    )


def check_overflow(loaded: LoadedModel, judged: Sequence[Judged]) -> None:
    """Raise ActivationError if there are several answers and all but the empty ones overflow."""
    why = [each.why for each in judged if each.state != "empty"]
    if len(why) > 1 and set(why) == {overflow(loaded)}:
        raise ActivationError(overflow(loaded))
