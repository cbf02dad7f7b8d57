"""A judging model whose numbers overflow: said as such, and never a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from personavec.errors import ActivationError
from personavec.model import LoadedModel


@runtime_checkable
class Judged(Protocol):
    """What a judge says of an answer."""

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
    """Raise ActivationError where several answers overflowed, and all but empty ones did."""
    why = [each.why for each in judged if each.state != "empty"]
    if len(why) > 1 and set(why) == {overflow(loaded)}:
        raise ActivationError(overflow(loaded))
