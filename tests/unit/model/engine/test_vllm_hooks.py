"""The hooks in a compiled model, without vLLM: torch's tracer, and a forward context of our own.

vLLM's own compilation runs in tests/live/test_vllm_compiled.py.
"""

import sys
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from vllm_runner import HIDDEN, LAYERS, Block, Worker, states

from personavec import LoadedModel
from personavec.errors import HookError, ModelError
from personavec.model import Steering
from personavec.model.engine.vllm_answer import VllmAnswer, opened
from personavec.model.engine.vllm_hooks import VISIT, put_hooks, visit
from personavec.model.engine.vllm_note import SteeringTable, note_of
from personavec.model.engine.vllm_probe import check_hooks
from personavec.model.engine.vllm_queue import VllmQueue
from personavec.model.engine.vllm_setup import may_compile
from personavec.model.engine.vllm_worker import Residual


class Model(torch.nn.Module):
    """The blocks of a worker, one after the other."""

    def __init__(self, blocks: Mapping[int, Block]):
        super().__init__()
        self.blocks = torch.nn.ModuleList(blocks.values())

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        stream, residual = hidden * 1.0, None
        for block in self.blocks:
            out = block(None, stream, residual)
            stream, residual = out if isinstance(out, tuple) else (out, None)
        return stream if residual is None else stream + residual


class Compiling(Worker):
    """A worker whose model a tracer has seen before the first request, as in vLLM."""

    def compiled(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> Residual:
        residual = Residual(
            self, self.blocks, reads=True, serves=lambda: self.serving, block_size=2
        )
        context = SimpleNamespace(no_compile_layers={VISIT: residual.visit})
        module = ModuleType("vllm.forward_context")
        monkeypatch.setattr(module, "get_forward_context", lambda: context, raising=False)
        monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
        monkeypatch.setitem(sys.modules, "vllm.forward_context", module)
        put_hooks(self.blocks, visit)
        torch.compiler.reset()
        self.model = torch.compile(Model(self.blocks), backend=backend, fullgraph=True)
        self.serving = False
        for n in (5, 9):  # the second is traced with a number of tokens that is not fixed
            self.model(torch.zeros(n, HIDDEN))
        self.serving = True
        return residual

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model(hidden)


def ask(worker: Worker, n: int = 4) -> list[tuple[str, int, torch.Tensor]]:
    """Requests that are not steered, with a zero vector, and in two ways."""
    worker.ask("a", n, response=[n, n + 1])
    worker.ask("bb", n, steer=[[1, 2, "all"]], response=[n, n + 1])
    worker.ask("ccc", n, steer=[[2, 0, "all"]], response=[n, n + 1])
    worker.ask("dddd", n, steer=[[2, 0, "prompt"], [LAYERS, 1, "response"]], response=[n, n + 1])
    return [(name, 0, states("a", n)) for name in ("a", "bb", "ccc", "dddd")]


@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_is_steered_and_read_as_an_eager_one(
    halves: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steerings in one batch; a zero vector changes nothing. `aot_eager` is what stands before
    inductor, and replaces changes in place by copies where they may be seen elsewhere."""
    generator = torch.Generator().manual_seed(9)
    table = torch.cat([torch.randn(2, HIDDEN, generator=generator), torch.zeros(1, HIDDEN)])
    found = []
    for worker in (Worker(halves), Compiling(halves)):
        if isinstance(worker, Compiling):
            residual = worker.compiled(backend, monkeypatch)
        else:
            residual = worker.hooked()
        residual.begin({"table": table, "unit": torch.zeros(0, HIDDEN)}, [])
        pieces = ask(worker)
        last = worker.step(pieces)
        sums, _, _ = opened(residual.take([name for name, _, _ in pieces]))
        found.append((last, *(sums[f"sums {i}"] for i in range(len(pieces)))))
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager)
    last, plain, zero, steered, other = found[1]
    torch.testing.assert_close(zero, plain)
    assert not torch.allclose(steered[3], plain[3])
    assert not torch.allclose(other[3], steered[3])
    torch.testing.assert_close(last[:4], last[4:8])


def test_the_graph_keeps_every_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is an operation of its own, at which vLLM can split the graph."""
    layers: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        nodes = graph.graph.find_nodes(op="call_function", target=torch.ops.personavec.visit)
        layers[:] = [node.args[2] for node in nodes]
        return graph.forward

    Compiling().compiled(backend, monkeypatch)
    assert layers == list(range(LAYERS + 1))


# The check of a compiled model


def probing(worker: Worker, deaf: int | None) -> Callable[[tuple[Steering, ...]], VllmAnswer]:
    """Answers of a worker; what hooks change at layer `deaf` goes no further."""
    residual = Residual(worker, worker.blocks, reads=True, serves=lambda: True, block_size=2)

    def look(hidden: torch.Tensor, rest: torch.Tensor | None, layer: int) -> None:
        residual.visit(hidden.clone() if layer == deaf else hidden, rest, layer)

    put_hooks(worker.blocks, look)

    def probe(steering: tuple[Steering, ...]) -> VllmAnswer:
        name, table = f"probe {len(worker.requests)}", SteeringTable(LAYERS, HIDDEN)
        note = note_of(name, 4, steering, table, response=[4, 5])
        residual.begin({"table": table.rows(), "unit": torch.zeros(0, HIDDEN)}, [])
        worker.ask(name, note.pop("prompt"), **note)
        last = worker.step([(name, 0, states("a", 4))])
        sums, _, _ = opened(residual.take([name]))
        return VllmAnswer((int(last[-1].argmax()),), sums["sums 0"].transpose(0, 1))

    return probe


def test_hooks_that_act_pass_the_check() -> None:
    check_hooks(LAYERS, HIDDEN, probing(Worker(), None))


@pytest.mark.parametrize(
    ("deaf", "message"),
    [(1, "layer 1 does not reach layer 2"), (3, "layer 3 does not reach the logits")],
)
def test_a_change_that_goes_no_further_is_found(deaf: int, message: str) -> None:
    with pytest.raises(HookError, match=message):
        check_hooks(LAYERS, HIDDEN, probing(Worker(), deaf))


def test_what_is_not_read_is_found() -> None:
    with pytest.raises(HookError, match="activations are missing"):
        check_hooks(LAYERS, HIDDEN, lambda steering: VllmAnswer((1,)))


# When vLLM compiles


@pytest.mark.parametrize(
    ("device", "arguments", "expected"),
    [
        ("cpu", {}, False),
        ("cuda", {}, True),
        ("cpu", {"enforce_eager": False}, True),
        ("cuda", {"enforce_eager": True}, False),
    ],
)
def test_accelerators_compile_unless_told_otherwise(
    device: str, arguments: dict[str, Any], expected: bool
) -> None:
    assert may_compile(torch.device(device), arguments) is expected


class Starting(VllmQueue):
    """That starts no vLLM, and fails with `error` if compiled."""

    def __init__(self, loaded: Any, arguments: dict[str, Any], error: Exception | None = None):
        self.loaded, self._arguments, self._version, self.error = loaded, arguments, "0", error
        self.launched: list[bool] = []
        self.mode = self._start()

    def _launch(self, *, compiled: bool) -> None:
        self.launched.append(compiled)
        self.compiled = compiled and not self._arguments.get("uncompilable")
        if compiled and self.error is not None:
            raise self.error


ON_GPU: Any = SimpleNamespace(device=torch.device("cuda"))


def test_the_mode_is_named(llama: LoadedModel) -> None:
    assert Starting(ON_GPU, {}).mode == "vLLM 0 runs the model compiled"
    assert Starting(llama, {}).mode == "vLLM 0 runs the model eagerly"
    mode = Starting(ON_GPU, {"uncompilable": True}).mode
    assert mode == "vLLM 0 runs the model eagerly, since it cannot compile it"


@pytest.mark.parametrize("error", [HookError("layer 1"), ModelError("layer 1")])
def test_a_model_that_fails_compiled_runs_eagerly(error: Exception) -> None:
    """Unless the user asked for it compiled."""
    queue = Starting(ON_GPU, {}, error)
    assert queue.launched == [True, False]
    assert queue.mode == "vLLM 0 runs the model eagerly, since compiled it fails: layer 1"
    with pytest.raises(type(error)):
        Starting(ON_GPU, {"enforce_eager": False}, error)
