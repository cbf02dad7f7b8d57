from pathlib import Path
from typing import Any

import pytest

from personavec.judges import Endpoint


@pytest.fixture
def endpoint(server: Any, tmp_path: Path) -> Endpoint:
    return Endpoint(
        "parrot", server.url, concurrency=4, retries=3, timeout=10, cache=tmp_path / "cache"
    )
