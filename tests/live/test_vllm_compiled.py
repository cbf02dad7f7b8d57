"""A model that vLLM compiled is steered and read as one that runs eagerly.

In float32 on the embedded model, where what differs is the order in which sums are rounded. On a
processor vLLM hands the whole graph to inductor; accelerators split it first, and this is tested by
itself.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm_engines import QUESTIONS, by_id, need_vllm, relative_error, start_vllm
from vllm_runner import HIDDEN, LAYERS, Worker, states

from personavec import LoadedModel, PersonaVector, load_model, load_vector
from personavec.model import Action, Directions, Steering, chat, vector_cap, vector_steering
from personavec.model.engine import Request, Sampling
from personavec.model.engine.vllm_hooks import VISIT, put_hooks, visit
from personavec.model.engine.vllm_setup import keeping_hooks
from personavec.model.engine.vllm_worker import Residual

pytestmark = pytest.mark.filterwarnings("ignore")

GREEDY = Sampling(max_tokens=24, temperature=0)


@pytest.fixture(scope="module")
def exact() -> LoadedModel:
    return load_model("smollm2", dtype="float32")


@pytest.fixture(scope="module")
def vector() -> PersonaVector:
    return load_vector("humorous")


@pytest.fixture(scope="module")
def eager(exact: LoadedModel) -> Iterator[Any]:
    with start_vllm(exact) as started:
        assert started.mode.endswith("runs the model eagerly")
        yield started


@pytest.fixture(scope="module")
def compiled(exact: LoadedModel) -> Iterator[Any]:
    with start_vllm(exact, enforce_eager=False) as started:
        assert started.mode.endswith("runs the model compiled")
        yield started


def asked(loaded: LoadedModel, vector: PersonaVector) -> list[Request]:
    """Every question unsteered, with coefficient 0, and in several ways."""
    last = Steering(loaded.identity.n_layers, vector.direction(), 3.0)
    ways: dict[str, tuple[Action, ...]] = {
        "plain": (),
        "zero": vector_steering(vector, 0.0, positions="all"),
        "response": vector_steering(vector, 2.0),
        "prompt": vector_steering(vector, 2.5, 21, "prompt"),
        "all": vector_steering(vector, -1.5, 9, "all"),
        "last": (last,),
        "capped": (*vector_steering(vector, 2.0), vector_cap(vector, 5)),
    }
    return [
        Request(f"{name} {i}", tuple(loaded.chat.prompt_ids(chat(question))), way)
        for i, question in enumerate(QUESTIONS)
        for name, way in ways.items()
    ]


def test_answers_and_activations_are_those_of_the_eager_model(
    compiled: Any, eager: Any, exact: LoadedModel, vector: PersonaVector
) -> None:
    """All steerings in one batch; the greedy answers differ only where two tokens nearly tie."""
    requests = asked(exact, vector)
    expected = by_id(eager.generate(requests, GREEDY, capture=True))
    found = by_id(compiled.generate(requests, GREEDY, capture=True))
    same = [name for name in expected if found[name].response_ids == expected[name].response_ids]
    assert len(same) >= 0.9 * len(requests)
    for name, theirs in expected.items():
        ours = found[name]
        # The prompt's mean and its last token do not depend on the answer.
        spans = slice(0 if name in same else 1, None)
        assert relative_error(ours.activations[spans], theirs.activations[spans]) < 1e-4, name
    for number in range(len(QUESTIONS)):
        zero, plain = found[f"zero {number}"], found[f"plain {number}"]
        assert zero.response_ids == plain.response_ids
        assert relative_error(zero.activations, plain.activations) < 1e-5
        assert found[f"all {number}"].response_ids != plain.response_ids


def test_projections_are_those_of_the_eager_model(
    compiled: Any, eager: Any, exact: LoadedModel, vector: PersonaVector
) -> None:
    texts = [np.array(exact.chat.prompt_ids(chat(q)), dtype=np.int32) for q in QUESTIONS]
    layers = (0, 9, exact.identity.n_layers)
    unit = torch.nn.functional.normalize(vector.direction(), dim=0).expand(len(layers), -1)
    directions = Directions(layers, unit.contiguous())
    for ours, theirs in zip(
        compiled.project(texts, directions), eager.project(texts, directions), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("halves", [True, False])
def test_accelerators_split_the_graph_at_every_hook(halves: bool) -> None:
    """vLLM's own splitting, with the operations that personavec sets: a graph whose pieces run one
    by one steers and reads as the blocks do."""
    need_vllm()
    from vllm.compilation.backends import split_graph
    from vllm.forward_context import override_forward_context

    settings = keeping_hooks({"cudagraph_mode": "FULL", "compile_sizes": [1]})
    assert settings["cudagraph_mode"] == "PIECEWISE"
    assert settings["compile_sizes"] == [1]
    splitting = settings["splitting_ops"]
    assert {VISIT, "vllm::unified_attention_with_output"} <= set(splitting)
    splits: list[bool] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        pieces, items = split_graph(graph, splitting)
        splits[:] = [item.is_splitting_graph for item in items]
        return pieces.forward

    class Split(Worker):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            whole = super().forward
            run = torch.compile(lambda given: whole(given * 1.0), backend=backend, fullgraph=True)
            return run(hidden)

    table = torch.randn(1, HIDDEN, generator=torch.Generator().manual_seed(9))
    found = []
    for worker in (Worker(halves), Split(halves)):
        residual = Residual(worker, worker.blocks, reads=True, serves=lambda: True)
        put_hooks(worker.blocks, visit)
        residual.begin({"table": table, "unit": torch.zeros(0, HIDDEN)}, [])
        worker.ask("a", 4, steer=[[2, 0, "all"]])
        worker.ask("bb", 4)
        context: Any = SimpleNamespace(no_compile_layers={VISIT: residual.visit})
        with override_forward_context(context):
            found.append(worker.step([(name, 0, states("a", 4)) for name in ("a", "bb")]))
    torch.testing.assert_close(found[1], found[0])
    assert sum(splits) == LAYERS + 1
