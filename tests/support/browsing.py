"""A real browser for tests."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none, unless one is required."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium")
    if found is None:
        if os.environ.get("CHROMIUM_REQUIRED") == "1":
            pytest.fail("CHROMIUM_REQUIRED=1, and there is no chromium on the path")
        pytest.skip("no chromium on the path")
    with sync_api.sync_playwright() as playwright:
        # Root, as in a container, has no sandbox of its own.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=found, args=flags)
        yield started
        started.close()
