"""vLLM's engine for tests that run in its environment, and how its answers are compared."""

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor

from personavec import LoadedModel
from personavec.model.engine import Generation

QUESTIONS = (
    "How was your day?",
    "Write a short note to a neighbour.",
    "What is the capital of Portugal?",
    "Should I quit my job?",
    "Say hello.",
)


def need_vllm() -> None:
    """Skip the test where vLLM is not installed, or fail it where VLLM_REQUIRED is set."""
    if importlib.util.find_spec("vllm") is None:
        if os.environ.get("VLLM_REQUIRED"):
            pytest.fail("vLLM is not installed here: run make vllm")
        pytest.skip("vLLM is not installed here; make vllm builds it and runs these tests")


def start_vllm(loaded: LoadedModel, **arguments: Any) -> Any:
    """vLLM on the model, where it is installed."""
    need_vllm()
    from personavec.model.engine import VllmEngine

    return VllmEngine(loaded, arguments)


def by_id(groups: Iterator[list[Generation]]) -> dict[str, Generation]:
    return {generation.id: generation for group in groups for generation in group}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest error of any layer's vector, in units of its length."""
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())
