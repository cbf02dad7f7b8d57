"""A real OpenAI-compatible server on loopback, llama.cpp with the embedded model, and a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browsing import chromium

from personavec import LoadedModel, PersonaVector, load_model
from personavec.judges import Endpoint
from personavec.model import embedded_gguf


@pytest.fixture(scope="session")
def llama_server() -> Iterator[str]:
    """The server's URL; it stops with the session."""
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(embedded_gguf())
    params.n_ctx, params.n_parallel = 4096, 2
    params.cpuparams.n_threads = torch.get_num_threads()
    params.port, params.warmup, params.verbosity = 0, False, -1
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


@pytest.fixture
def endpoint(llama_server: str, tmp_path: Path) -> Endpoint:
    return Endpoint("smollm2", llama_server, concurrency=2, cache=tmp_path / "answers")


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    return load_model("smollm2")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def markup() -> LoadedModel:
    """A model that writes nothing but markup."""
    from page_driver import build  # Needs playwright, which not every environment here has.

    return build()


@pytest.fixture(scope="module")
def vectors(markup: LoadedModel) -> dict[str, PersonaVector]:
    from page_driver import two_vectors

    return two_vectors(markup)
