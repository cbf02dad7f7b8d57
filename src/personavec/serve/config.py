"""What the operator of a server decides; its fields are options of `personavec serve`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter

from personavec.options import GENERAL, Count, between, options, panel

LIMITS = panel("Limits")
STEERING = panel("Guards and alarms")
#: A field that only Python code sets.
NO_OPTION = Parameter(parse=False)


@options()
@dataclass(frozen=True)
class ServeConfig:
    """What the operator decides, beside the model and its vectors."""

    guard: tuple[str, ...] = ()
    """Act on a forecast: 'evil>3sigma: steer -1', ': cap' or ': refuse'; repeatable."""
    alarm_webhook: Annotated[str | None, STEERING] = None
    """Address that drift alarms are posted to."""
    allow_any_coefficient: Annotated[bool, STEERING] = False
    """Steer beyond the range that keeps replies coherent."""
    rows: Annotated[Count, LIMITS] = 16
    """Replies written at a time."""
    queue: Annotated[int, LIMITS, between(0)] = 64
    """Further replies that may wait."""
    max_tokens: Annotated[Count, LIMITS] = 1024
    """Longest reply that a request may ask for, in tokens."""
    request_seconds: Annotated[float, LIMITS, between(1)] = 300.0
    """Longest time for a request, waiting included."""
    log_text: Annotated[bool, GENERAL] = False
    """Log messages and replies; default: off."""
    name: Annotated[str, NO_OPTION] = ""
    """The model's name for clients; by default the model's own."""
    api_key: Annotated[str | None, NO_OPTION] = field(default=None, repr=False)
    """The key that clients must send; None asks for none."""
    default_tokens: Annotated[int, NO_OPTION] = 256
    """Longest reply to a request that sets no limit, in tokens."""
    max_body: Annotated[int, NO_OPTION] = 1 << 20
    """Longest body of a request, in bytes."""
