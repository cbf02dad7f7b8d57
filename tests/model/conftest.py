"""The embedded model, loaded once."""

import pytest

from personavec import LoadedModel, load_model


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    return load_model("smollm2")
