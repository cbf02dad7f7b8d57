"""An environment without the package that brings the embedded model's weights."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

from personavec.model.embedded import EMBEDDED_PACKAGE


def hide_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package be missing, and no other one."""
    found = metadata.files

    def without(name: str) -> Any:
        if name == EMBEDDED_PACKAGE:
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "files", without)
