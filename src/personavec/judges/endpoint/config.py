"""Where to ask, which model, and how hard. Holds the name of the key's variable, never the key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from personavec.errors import UsageError
from personavec.runs import cache_folder

OPENAI_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"

#: The body of a request for a chat completion, without `model`.
Request: TypeAlias = Mapping[str, Any]

#: Fields that a request can do without.
OPTIONAL_FIELDS = ("seed", "temperature")


@dataclass
class Adaptations:
    """What later requests to an endpoint do differently, learned from its errors."""

    limit_name: str = "max_tokens"
    """Its name for the limit on an answer's tokens."""
    left_out: set[str] = field(default_factory=set)
    """Fields that it rejects and that requests leave out."""


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible endpoint."""

    model: str
    base_url: str = ""
    """Up to and including `/v1`; default: $OPENAI_BASE_URL, else OpenAI's own."""
    key_variable: str = KEY_VARIABLE
    """The environment variable that holds the key; may be unset for servers that need none."""
    concurrency: int = 16
    """Requests under way at a time."""
    timeout: float = 120.0
    """Seconds without a byte after which a request is given up and tried again."""
    retries: int = 5
    """Further tries of a request after a failure that may be transient."""
    cache: Path | None = None
    """Folder that keeps the answers; default: `answers` in the user's cache folder."""
    adaptations: Adaptations = field(default_factory=Adaptations, compare=False, repr=False)

    def __post_init__(self) -> None:
        url = self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        object.__setattr__(self, "base_url", url.rstrip("/"))
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"--api-base {self._shown_url()} is not a URL; "
                "give one like http://localhost:8000/v1"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UsageError(
                f"--api-base {self._shown_url()}: a URL must not hold a key or other parameters; "
                f"put the key into ${self.key_variable}"
            )
        if not self.model:
            raise UsageError("the endpoint's model is missing; name it with --api-model")
        if self.concurrency < 1 or self.retries < 0 or self.timeout <= 0:
            raise UsageError("concurrency must be at least 1, retries 0, and timeout above 0")

    def key(self) -> str:
        """The key in the environment, empty if there is none."""
        return os.environ.get(self.key_variable, "").strip()

    def without_key(self, text: str) -> str:
        """A server's text without the key, which some servers repeat."""
        key = self.key()
        return text.replace(key, "[key]") if len(key) >= 8 else text

    def identity(self) -> dict[str, str]:
        """What decides its answers, for manifests and reports."""
        return {"endpoint": self.base_url, "model": self.model}

    def notes(self) -> list[str]:
        """Notes on its answers, for results."""
        if not self.adaptations.left_out:
            return []
        fields = " and ".join(sorted(self.adaptations.left_out))
        return [f"{self._shown_url()} refuses {fields}: {self.model} was asked without."]

    def answers_folder(self) -> Path:
        return self.cache or cache_folder() / "answers"

    def _shown_url(self) -> str:
        """The URL without the parts that may hold a secret."""
        return re.sub(r"[?#].*", "", re.sub(r"//[^/@]*@", "//", self.base_url))
