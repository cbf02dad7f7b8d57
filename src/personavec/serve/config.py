"""The config of a server; its fields are options of `personavec serve`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from personavec.errors import UsageError
from personavec.options import GENERAL, Count, between, options, panel

if TYPE_CHECKING:
    from personavec.vectors import PersonaVector

LIMITS = panel("Limits")
STEERING = panel("Guards and alarms")
#: A field that only Python code sets.
NO_OPTION = Parameter(parse=False)
#: The environment variable of the clients' key, unless --api-key-env names another.
_KEY = "PERSONAVEC_API_KEY"


@options()
@dataclass(frozen=True)
class ServeConfig:
    """The settings of a server, except the model and its vectors."""

    guard: Annotated[tuple[str, ...], Parameter(metavar="RULE")] = ()
    """Act on a forecast: 'evil>4sigma: steer -1', ': cap' or ': refuse'; repeatable."""
    alarm_webhook: Annotated[str | None, STEERING] = None
    """URL to which drift alarms are posted."""
    allow_any_coefficient: Annotated[bool, STEERING] = False
    """Steer beyond the range that keeps replies coherent."""
    rows: Annotated[Count, LIMITS] = 16
    """Replies written at a time."""
    queue: Annotated[int, LIMITS, between(0)] = 64
    """Further replies that may wait."""
    prefix_cache: Annotated[int, LIMITS, between(0)] = 512
    """MiB of keys and values kept for later prompts that begin alike; 0 keeps none."""
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


@options()
@dataclass(frozen=True)
class ServeInputs:
    """The vectors to serve, and the address."""

    vectors: str = "bundled"
    """Vectors' folders or bundled names, separated by commas; `bundled` is all of these, `none` is
    none."""
    host: str = "127.0.0.1"
    """Address; other than loopback needs a key."""
    port: Annotated[int, between(0, 65535)] = 8000
    """0 takes a free one."""
    api_key_env: str | None = None
    """Environment variable that holds clients' key; default: PERSONAVEC_API_KEY, if set."""
    shutdown_seconds: Annotated[float, LIMITS, between(0)] = 30.0
    """Time for running replies to finish when the server stops."""

    def load(self) -> tuple[dict[str, PersonaVector], dict[str, Path]]:
        """Vectors and their reports, by trait. Raises UsageError, DataError."""
        from personavec.vectors import bundled_vectors, load_vector

        names = [name.strip() for name in self.vectors.split(",") if name.strip()]
        if names == ["none"]:
            names = []
        elif names == ["bundled"]:
            names = bundled_vectors()
        vectors: dict[str, PersonaVector] = {}
        reports: dict[str, Path] = {}
        for name in names:
            vector = load_vector(name)
            if vector.trait in vectors:
                raise UsageError(f"--vectors: two vectors are of the trait '{vector.trait}'")
            vectors[vector.trait] = vector
            report = Path(name) / "report.html"
            if report.is_file():
                reports[vector.trait] = report
        return vectors, reports

    def key(self) -> str | None:
        """The clients' key, if one is set. Raises UsageError for an unusable key."""
        name = self.api_key_env or _KEY
        key = os.environ.get(name)
        if key is None and self.api_key_env is None:
            return None
        if not key:
            raise UsageError(
                f"--api-key-env: the variable {name} is {'empty' if key == '' else 'not set'}, so "
                "the server would require no key; set it to the clients' key"
            )
        if not key.isascii() or not key.isprintable() or key != key.strip():
            raise UsageError(
                f"--api-key-env: the key in {name} cannot be sent in a header; use printable ASCII "
                "without spaces around it"
            )
        return key
