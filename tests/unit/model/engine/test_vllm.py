"""The vllm engine's own part, without vLLM: what is steered and counted in every step of a batch,
and what is refused. The rest runs in tests/live/test_vllm.py.
"""

import math
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load
from vllm_runner import HIDDEN, LAYERS, Worker, alone, states

from personavec import LoadedModel
from personavec.cli.main import main
from personavec.errors import ActivationError, HookError, PersonavecError, UsageError
from personavec.model import Action, Cap, Directions, Steering
from personavec.model.engine import (
    Generation,
    Request,
    Sampling,
    VllmEngine,
    Watch,
    Written,
    vllm as vllm_engine,
)
from personavec.model.engine.vllm_answer import VllmAnswer, opened, with_means
from personavec.model.engine.vllm_note import SteeringTable, note_of, request_seed
from personavec.model.engine.vllm_plan import steered_positions


@pytest.mark.parametrize("halves", [True, False])
def test_a_batch_in_pieces_equals_every_text_alone(halves: bool) -> None:
    """Prompts in two pieces, requests that come late, and one that is set back and runs again."""
    worker = Worker(halves)
    residual = worker.hooked()
    table = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(9))
    residual.begin({"table": table, "unit": torch.zeros(0, HIDDEN)}, [])
    texts = {name: states(name, n) for name, n in (("a", 7), ("bb", 5), ("ccc", 6))}
    prompts = {"a": 4, "bb": 2, "ccc": 3}
    worker.ask("a", 4, steer=[[1, 0, "response"], [3, 1, "all"]], response=[4, 7])
    worker.ask("bb", 2, steer=[[1, 1, "prompt"]], response=[2, 4])  # its last token is no response
    worker.ask("ccc", 3)
    a, b, c = texts.values()
    worker.step([("a", 0, a[:2])])
    worker.step([("a", 2, a[2:4]), ("bb", 0, b[:2])])
    worker.step([("bb", 2, b[2:3]), ("ccc", 0, c), ("a", 4, a[4:5])])
    worker.step([("bb", 0, b), ("a", 5, a[5:6])])  # set back
    last = worker.step([("a", 6, a[6:])])
    added = {
        "a": {1: torch.zeros(7, HIDDEN), 3: table[1].expand(7, HIDDEN)},
        "bb": {1: torch.zeros(5, HIDDEN)},
    }
    added["a"][1][3:] = table[0]
    added["bb"][1][:2] = table[1]
    data = residual.take(["a", "bb", "ccc"])
    found, counts, sound = opened(data)
    assert found.keys() == {"sums 0", "sums 1"}
    assert counts == {"0": 3, "1": 2}
    assert sound == {}  # no logits were asked for
    for number, (name, stop) in enumerate((("a", 7), ("bb", 4))):
        n = prompts[name]
        expected = alone(worker.blocks, texts[name], added[name])
        sums = torch.stack(
            [expected[:, n:stop].sum(1), expected[:, :n].mean(1), expected[:, n - 1]], dim=1
        )
        torch.testing.assert_close(found[f"sums {number}"], sums)
        if name == "a":
            torch.testing.assert_close(last[-1], expected[-1, -1])
    assert load(residual.take(["a"])) == {}


def test_projections_are_every_tokens_dot_product() -> None:
    """At the layers asked for, in pieces, beside a request that asks for none."""
    worker = Worker()
    residual = worker.hooked()
    unit = torch.eye(HIDDEN)[:3].contiguous()
    residual.begin({"table": torch.zeros(0, HIDDEN), "unit": unit}, [0, 3, 1])
    text = states("a", 6)
    worker.ask("a", 6, project=0)
    worker.ask("bb", 2)
    worker.step([("bb", 0, states("bb", 2)), ("a", 0, text[:4])])
    worker.step([("a", 4, text[4:])])
    expected = alone(worker.blocks, text, {})
    found = load(residual.take(["a"]))["projections 0"]
    for column, layer in enumerate([0, 3, 1]):
        torch.testing.assert_close(found[:, column], expected[layer, :, column])


def test_requests_bring_their_own_vectors_and_caps() -> None:
    """Beside one that is steered from the shared table; additions first, then every cap in turn.
    Read is the last prompt token and what follows."""
    worker = Worker()
    residual = worker.hooked()
    shared = torch.randn(1, HIDDEN, generator=torch.Generator().manual_seed(9))
    unit = torch.eye(HIDDEN)[:1].contiguous()
    residual.begin({"table": shared, "unit": unit}, [3])
    v, w, u = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(3))
    actions: dict[str, tuple[Action, ...]] = {
        "a": (Cap(2, w, -0.5), Cap(2, u, -0.2), Steering(2, v, 2.0), Steering(1, w, -1.0)),
        "bb": (Steering(3, w, 1.5, "all"), Cap(2, v, -1.0, "prompt")),
    }
    texts, prompts = {"a": states("a", 6), "bb": states("bb", 5)}, {"a": 3, "bb": 4}
    for name, acting in actions.items():
        prompt, table = prompts[name], SteeringTable(LAYERS, HIDDEN)
        note = note_of(name, prompt, acting, table, own_tensors=True, project=prompt - 1)
        worker.ask(name, note.pop("prompt"), **note)
    worker.ask("ccc", 2, steer=[[1, 0, "all"]])
    a, b, c = texts["a"], texts["bb"], states("ccc", 2)
    worker.step([("ccc", 0, c), ("a", 0, a[:2]), ("bb", 0, b[:4])])
    early = load(residual.peek(["bb"]))["projections 0"]
    last = worker.step([("bb", 4, b[4:]), ("a", 2, a[2:])])
    found = load(residual.take(["a", "bb"]))
    for number, (name, text) in enumerate(texts.items()):
        expected = alone(worker.blocks, text, {}, acted(actions[name], prompts[name]))
        projected = expected[3, prompts[name] - 1 :, :1]
        torch.testing.assert_close(found[f"projections {number}"], projected)
    torch.testing.assert_close(last[1:], alone(worker.blocks, a, {}, acted(actions["a"], 3))[3, 2:])
    torch.testing.assert_close(early, found["projections 1"][:1])
    # One more forward of a request that was taken before its end is of no one.
    worker.step([("a", 6, a[:1]), ("ccc", 2, c[:1])])
    assert load(residual.take(["a", "bb"])) == {}
    assert residual._readings.keys() == {"ccc"}
    del worker.requests["a"]
    worker.step([("ccc", 3, c[:1])])
    assert residual._left.keys() == {"bb"}


def acted(actions: tuple[Action, ...], prompt: int) -> Callable[[int, torch.Tensor], torch.Tensor]:
    """What actions make of one layer's states [token, hidden], token by token."""

    def act(layer: int, stream: torch.Tensor) -> torch.Tensor:
        stream = stream.detach().clone()
        for action in sorted(actions, key=lambda one: isinstance(one, Cap)):
            low, high = steered_positions(action.positions, prompt)
            for token in range(low, len(stream) if high is None else high):
                if action.layer != layer:
                    continue
                if isinstance(action, Steering):
                    stream[token] += action.coefficient * action.direction
                else:
                    over = max(0.0, float(stream[token] @ action.unit) - action.ceiling)
                    stream[token] -= over * action.unit
        return stream

    return act


def test_logits_that_are_no_numbers_are_noted_of_their_request() -> None:
    """At any step; one that was taken, or of which no logits came, has no entry."""
    worker = Worker()
    residual = worker.hooked()
    residual.begin({"table": torch.zeros(0, HIDDEN), "unit": torch.zeros(0, HIDDEN)}, [])
    bad = {"nan": math.nan, "inf": math.inf}
    names = ["fine", *bad, "flat", "taken"]
    for name in [*names, "late"]:
        worker.ask(name, 1)

    def step(first: int, logits: torch.Tensor | None) -> None:
        worker.step([(name, first, states(name, 1)) for name in names])
        residual.check_logits(logits)

    logits = torch.randn(len(names), 5, generator=torch.Generator().manual_seed(1))
    # Masked tokens are nothing wrong.
    logits[0, 0] = -math.inf
    step(0, logits)
    residual.take(["taken"])
    broken = logits.clone()
    for row, value in enumerate(bad.values(), start=1):
        broken[row, 2] = value
    broken[3] = 0
    step(1, broken)
    step(2, logits)
    step(0, logits)  # set back, all of them
    step(3, None)  # a stage that has none
    _, _, sound = opened(residual.take([*names[:-1], "late"]))
    assert sound == {"0": True, "1": False, "2": False, "3": False}
    step(4, logits)
    residual.peek([])
    assert not residual._readings  # not even of the one that was taken, though it still runs
    worker.step([("late", 0, states("late", 1))])
    with pytest.raises(RuntimeError, match="1 requests, but logits for 5"):
        residual.check_logits(logits)


def test_logits_that_were_not_checked_are_an_error() -> None:
    with pytest.raises(HookError, match="logits of request a were not checked"):
        VllmAnswer().overflowed("a")
    assert VllmAnswer(sound=False).overflowed("a")
    assert not VllmAnswer(sound=True).overflowed("a")


def test_many_requests_share_the_sums() -> None:
    """More than there is room for at first; each place is given to another when it is fetched."""
    worker = Worker()
    residual = worker.hooked()
    residual.begin({"table": torch.zeros(0, HIDDEN), "unit": torch.zeros(0, HIDDEN)}, [])
    for turn in range(2):
        names = [f"{turn}-{i}" for i in range(70)]
        for name in names:
            worker.ask(name, 1, response=[1, 2])
        texts = [states("x" * (i + 1), 2) for i in range(70)]
        worker.step([(name, 0, text) for name, text in zip(names, texts, strict=True)])
        found = load(residual.take(names))
        for number, text in enumerate(texts):
            expected = alone(worker.blocks, text, {})
            torch.testing.assert_close(found[f"sums {number}"][:, 0], expected[:, 1])


def test_a_second_worker_of_the_same_layers_steers_and_reads_nothing() -> None:
    worker = Worker()
    residual = worker.hooked(reads=False)
    table = torch.ones(1, HIDDEN)
    residual.begin({"table": table, "unit": torch.zeros(0, HIDDEN)}, [])
    text = states("a", 3)
    worker.ask("a", 2, steer=[[2, 0, "all"]], response=[2, 3])
    last = worker.step([("a", 0, text)])
    expected = alone(worker.blocks, text, {2: table.expand(3, HIDDEN)})
    torch.testing.assert_close(last, expected[-1])
    assert residual.take(["a"]) == b""


def test_a_layer_that_is_passed_over_ends_the_run() -> None:
    """A hook that did not fire is an error, in the next forward or when results are fetched."""
    worker = Worker()
    residual = worker.hooked()
    residual.begin({"table": torch.zeros(0, HIDDEN), "unit": torch.zeros(0, HIDDEN)}, [])
    worker.ask("a", 1)
    worker.step([("a", 0, states("a", 1))])
    del worker.blocks[2]
    with pytest.raises(RuntimeError, match="layer 3 out of order"):
        worker.step([("a", 1, states("a", 1))])
    with pytest.raises(RuntimeError, match="before layer 2"):
        residual.take(["a"])


def test_too_few_tokens_read_is_an_error() -> None:
    generation = Generation("a", (5, 6), True)
    answer = VllmAnswer((5, 6), torch.zeros(3, LAYERS + 1, HIDDEN), n_summed=1)
    with pytest.raises(HookError, match="1 of 2 response tokens of request a"):
        with_means(generation, answer, 2)


class Overflowing(VllmEngine):
    """All of whose responses fail, two at a time; `ended` says that it was told to stop."""

    def __init__(self, loaded: LoadedModel):
        self.loaded, self.ended = loaded, False

    def _generated(self, requests: Any, sampling: Any, **how: Any) -> Any:
        try:
            for start in range(0, len(requests), 2):
                yield [Generation(r.id, (), False, failed=True) for r in requests[start:][:2]]
        finally:
            self.ended = True


def test_a_model_that_overflows_unsteered_ends_the_run(llama: LoadedModel) -> None:
    """As with transformers; steered responses may all fail."""
    engine = Overflowing(llama)
    steering = (Steering(1, torch.ones(HIDDEN), 1.0),)
    steered = [Request(f"s{i}", (1,), steering) for i in range(4)]
    plain = [Request(f"p{i}", (1,)) for i in range(4)]
    assert len(list(engine.generate(steered, Sampling()))) == 2
    engine.ended = False
    groups = engine.generate([*steered[:2], *plain], Sampling())
    assert [g.id for g in next(groups)] == ["s0", "s1"]
    with pytest.raises(ActivationError, match="load it in another precision"):
        next(groups)
    assert engine.ended


class Spoken(VllmEngine):
    """vLLM whose outputs are written down: two requests, of which one ends before the other."""

    def __init__(self, loaded: LoadedModel, stop: int):
        self.loaded, self.context, self._block = loaded, 100, 0
        self.stop = stop
        self.outputs = [[("a", [5]), ("b", [7])], [("a", [6]), ("b", [stop])], [("a", [8, 9])]]
        self.read_so_far = {"a": 0, "b": 0}
        self.notes: dict[str, Any] = {}
        self.kept: list[list[str]] = []

    def begin(self, table: Any, directions: Any = None) -> None:
        self.directions = directions

    def sampling_params(self, sampling: Any, noise: str, new_tokens: int, **how: Any) -> Any:
        assert (new_tokens, how["stream"]) == (sampling.max_tokens + 1, True)
        return SimpleNamespace()

    def add(self, name: str, ids: Any, params: Any, note: Any) -> None:
        self.notes[name] = note

    def abort(self, names: list[str]) -> None:
        raise AssertionError(names)

    def step(self) -> list[Any]:
        found = self.outputs.pop(0)
        for name, ids in found:
            self.read_so_far[name] += len(ids)
        return [
            SimpleNamespace(
                request_id=name,
                finished=self.stop in ids or not self.outputs,
                outputs=[SimpleNamespace(token_ids=ids)],
            )
            for name, ids in found
        ]

    def read(self, names: list[str], *, keep: bool = False) -> dict[str, VllmAnswer]:
        if keep:
            self.kept.append(names)
        # The newest token has not run yet.
        return {
            name: VllmAnswer(
                projections=torch.arange(float(self.read_so_far[name] - 1))[:, None], sound=True
            )
            for name in names
        }


def test_responses_are_shown_as_they_grow_with_what_was_read(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once its tokens are read, and whole when it ends; one that ended is yielded at once."""
    monkeypatch.setattr(vllm_engine, "dead_error", lambda: OSError)
    engine = Spoken(llama, min(llama.stop_ids))
    shown: list[tuple[str, tuple[int, ...], list[float]]] = []

    def show(found: Written) -> None:
        shown.append((found.id, found.response_ids, found.projections[:, 0].tolist()))

    unit = torch.eye(HIDDEN)[:1]
    watch = Watch(Directions((1,), unit), show)
    requests = [Request(name, (1, 2)) for name in "ab"]
    groups = list(engine.generate(requests, Sampling(3), watch=watch))
    assert [[g.id for g in group] for group in groups] == [["b"], ["a"]]
    assert shown == [
        ("a", (5,), [0.0]),
        ("b", (7,), [0.0]),
        ("a", (5, 6, 8), [0.0, 1.0, 2.0]),
    ]
    assert engine.directions is watch.directions
    assert {note["project"] for note in engine.notes.values()} == {2}
    assert engine.kept == [["a"]]


@pytest.mark.parametrize(
    ("kind", "expected"), [("response", (4, None)), ("prompt", (0, 5)), ("all", (0, None))]
)
def test_positions(kind: str, expected: tuple[int, int | None]) -> None:
    assert steered_positions(kind, 5) == expected


def test_what_acts_at_one_place_is_one_addition() -> None:
    """Each combination once in the table, however many requests have it."""
    table = SteeringTable(4, HIDDEN)
    v, w = torch.ones(HIDDEN), torch.arange(HIDDEN).float()
    both = (Steering(2, v, 2.0), Steering(2, w, -1.0), Steering(3, w, 0.0))
    assert table.steer(both) == [[2, 0, "response"]]
    assert table.steer((Steering(1, v, 2.0, "all"),)) == [[1, 1, "all"]]
    assert table.steer(both) == [[2, 0, "response"]]
    assert torch.equal(table.rows(), torch.stack([2 * v - w, 2 * v]))
    with pytest.raises(UsageError, match="layer 5 does not exist: the model has layers 1 to 4"):
        table.steer((Steering(5, v, 1.0),))


def test_seeds_are_of_the_run_and_the_request() -> None:
    seeds = {request_seed(seed, name) for seed in (0, 1) for name in ("a", "b")}
    assert len(seeds) == 4
    assert request_seed(0, "a") in seeds
    assert all(0 <= seed < 2**63 for seed in seeds)


# What is refused


def test_what_steering_needs_cannot_be_set(llama: LoadedModel) -> None:
    with pytest.raises(UsageError, match="--engine-arg async_scheduling is set by personavec"):
        VllmEngine(llama, {"async_scheduling": True})


def test_a_model_in_memory_is_refused(llama: LoadedModel) -> None:
    with pytest.raises(UsageError, match="made in memory"):
        VllmEngine(llama)


def test_without_vllm_the_remedy_is_named(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr(llama.model.config, "name_or_path", "somewhere", raising=False)
    with pytest.raises(PersonavecError, match=r"personavec\[vllm\]"):
        VllmEngine(llama)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "vlm"], "--engine vlm: use auto, transformers or vllm"),
        (["--engine-arg", "a=1"], "--engine-arg is for --engine vllm"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ["steer", "Hello?"],
        ["extract", "--trait", "evil"],
        ["evaluate", "--trait", "evil"],
        ["screen", "rows.jsonl"],
        ["serve"],
    ],
)
def test_commands_refuse_other_engines(
    command: list[str],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before a model is loaded."""
    with pytest.raises(SystemExit) as ended:
        main([*command, *arguments])
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
