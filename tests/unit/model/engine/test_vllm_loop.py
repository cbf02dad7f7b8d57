"""vLLM's outputs as updates, without vLLM: an engine whose outputs are written down. The rest runs
in tests/live/test_vllm.py.
"""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from personavec import LoadedModel
from personavec.errors import HookError, ModelError, UsageError
from personavec.model import Cap, Steering
from personavec.model.engine import (
    NOT_FINITE,
    DecodeJob,
    GuardVerdict,
    Loop,
    Request,
    Sampling,
    Update,
    VllmEngine,
    VllmLoop,
    vllm_loop,
)
from personavec.model.engine.vllm_answer import VllmAnswer
from personavec.model.engine.vllm_loop import logprobs
from personavec.serve.worker import Worker


class Died(Exception):
    """In place of vLLM's own."""


class Scripted(VllmEngine):
    """Gives what a test says, and notes down what it is asked."""

    def __init__(self, loaded: LoadedModel):
        self.loaded, self.context, self.max_rows = loaded, 100, 2
        self.script: list[Any] = []
        self.added: dict[str, dict[str, Any]] = {}
        self.aborted: list[str] = []
        self.taken: list[str] = []
        self.values: dict[str, torch.Tensor] = {}
        self.unsound: set[str] = set()

    alive = True

    def begin(self, table: Any, directions: Any = None) -> None:
        pass

    def sampling_params(self, sampling: Sampling, noise: str, new_tokens: int, **more: Any) -> Any:
        return new_tokens

    def add(self, name: str, ids: Sequence[int], params: Any, note: dict[str, Any]) -> None:
        if ids[0] == 99:
            raise ValueError("no such token")
        self.added[name] = {**note, "new_tokens": params}

    def abort(self, names: list[str]) -> None:
        self.aborted += names

    def read(self, names: list[str], *, keep: bool = False) -> dict[str, VllmAnswer]:
        if not keep:
            self.taken += names
        return {
            name: VllmAnswer(projections=self.values.get(name), sound=name not in self.unsound)
            for name in names
        }

    def step(self) -> list[Any]:
        found = self.script.pop(0)
        if isinstance(found, Exception):
            raise found
        return [
            SimpleNamespace(
                request_id=name,
                finished=reason is not None,
                outputs=[SimpleNamespace(token_ids=ids, finish_reason=reason)],
            )
            for name, ids, reason in found
        ]


@pytest.fixture
def engine(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    monkeypatch.setattr(vllm_loop, "dead_error", lambda: Died)
    return Scripted(llama)


def job(name: str = "r", tokens: int = 3, **more: Any) -> DecodeJob:
    return DecodeJob(Request(name, (40, 41, 42)), Sampling(tokens), read=True, **more)


def values(n: int) -> torch.Tensor:
    return torch.arange(float(2 * n)).reshape(n, 2)


def test_a_reply_ends_by_length_once_its_last_token_is_read(engine: Scripted) -> None:
    """By the token after it, which is not told; more rows than tokens are cut off."""
    loop = VllmLoop(engine)
    assert isinstance(loop, Loop)
    loop.submit(job())
    assert (loop.running, loop.waiting, loop.busy) == (1, 0, True)
    assert engine.added["r"]["new_tokens"] == 4
    assert engine.added["r"]["project"] == 2
    assert engine.added["r"]["own"] is None
    engine.script = [[("r", [50], None), ("gone", [9], None)], [("r", [51, 52, 53], "length")]]
    engine.values["r"] = values(5)
    assert loop.step() == [Update("r", 50)]
    assert loop.step() == [Update("r", 51), Update("r", 52), Update("r", end="length")]
    found = loop.projections("r")
    assert found is not None
    assert torch.equal(found, values(5)[:4])
    assert loop.projections("r") is None
    assert (loop.busy, engine.taken) == (False, ["r"])


def test_a_reply_ends_at_the_models_end_and_where_it_is_told_to(engine: Scripted) -> None:
    loop = VllmLoop(engine)
    for name in ("r", "s", "t"):
        loop.submit(job(name, 9))
    assert (loop.running, loop.waiting) == (2, 1)
    stop = min(engine.loaded.stop_ids)
    engine.values = {"r": values(2), "s": values(3)}
    engine.script = [
        [("r", [50], None), ("s", [50], None)],
        [("r", [stop], "stop"), ("s", [51], None)],
    ]
    assert loop.step() == [Update("r", 50), Update("s", 50)]
    assert loop.finish("s")
    loop.cancel("t")
    assert loop.step() == [Update("r", end="stop"), Update("s", end="stop")]
    assert not loop.finish("s")
    found = loop.projections("s")
    assert found is not None
    assert len(found) == 2
    assert {"s", "t"} <= set(engine.aborted)
    assert sorted(engine.taken) == ["r", "s", "t"]
    assert not loop.busy


def test_a_reply_whose_logits_were_no_numbers_fails_alone(engine: Scripted) -> None:
    """Read or not."""
    loop = VllmLoop(engine)
    loop.submit(DecodeJob(Request("r", (40, 41)), Sampling(1)))
    loop.submit(job("s", 1))
    engine.values = {"s": values(2)}
    engine.unsound = {"r"}
    engine.script = [[(name, [50, 51], "length") for name in ("r", "s")]]
    found = [update for update in loop.step() if update.end]
    assert found == [Update("r", end="failed", reason=NOT_FINITE), Update("s", end="length")]


def test_a_guard_that_breaks_fails_its_request_alone(engine: Scripted) -> None:
    def breaks(forecast: torch.Tensor) -> GuardVerdict:
        raise ZeroDivisionError("by zero")

    loop = VllmLoop(engine)
    loop.submit(job("r", guard=breaks))
    loop.submit(job("s"))
    engine.values = {"r": values(1), "s": values(1)}
    engine.script = [[("r", [50], None), ("s", [50], None)]]
    found = loop.step()
    assert found == [Update("r", end="failed", reason="a guard failed: by zero"), Update("s", 50)]
    assert loop.busy


def test_a_request_that_asks_for_no_reading_gets_none(engine: Scripted) -> None:
    loop = VllmLoop(engine)
    loop.submit(DecodeJob(Request("r", (40, 41)), Sampling(1)))
    assert engine.added["r"]["project"] is None
    engine.script = [[("r", [50], None)], [("r", [51], "length")]]
    assert [*loop.step(), *loop.step()] == [Update("r", 50), Update("r", end="length")]
    assert loop.projections("r") is None


def test_a_token_that_was_not_read_is_an_error(engine: Scripted) -> None:
    loop = VllmLoop(engine)
    loop.submit(job())
    engine.script = [[("r", [50, 51, 52, 53], "length")]]
    engine.values["r"] = values(3)
    with pytest.raises(HookError, match="not read"):
        loop.step()


def test_a_reading_of_nan_fails_the_reply(engine: Scripted) -> None:
    loop = VllmLoop(engine)
    loop.submit(job(tokens=1))
    engine.script = [[("r", [50, 51], "length")]]
    engine.values["r"] = torch.tensor([[1.0], [float("nan")]])
    assert loop.step() == [Update("r", 50), Update("r", end="failed", reason=NOT_FINITE)]


@pytest.mark.parametrize("does", ["nothing", "cap", "refuse"])
def test_a_guard_judges_before_a_token_is_told(engine: Scripted, does: str) -> None:
    """Once. Where it acts the request begins again, and its forecast stays the one it was."""
    asked: list[torch.Tensor] = []
    acts = (Cap(2, torch.ones(32), 1.0), Steering(1, torch.ones(32), 2.0))

    def guard(forecast: torch.Tensor) -> GuardVerdict:
        asked.append(forecast)
        return {"nothing": None, "cap": acts, "refuse": "refuse"}[does]

    loop = VllmLoop(engine)
    loop.submit(job(guard=guard))
    engine.values = {"r": values(4), "r guarded": values(4) + 10}
    name = "r guarded" if does == "cap" else "r"
    engine.script = [
        [("r", [50], None)],
        [("r", [51], None)],
        [(name, [52, 53, 54, 55], "length")],
    ]
    updates = [update for _ in range(1 if does == "refuse" else 3) for update in loop.step()]
    assert len(asked) == 1
    assert torch.equal(asked[0], values(4)[0])
    found = loop.projections("r")
    assert found is not None
    assert torch.equal(found[0], asked[0])
    assert not loop.busy
    if does == "refuse":
        assert updates == [Update("r", end="refused")]
        assert len(found) == 1
        return
    told = [52, 53, 54] if does == "cap" else [50, 51, 52]
    assert [update.token for update in updates] == [*told, None]
    assert torch.equal(found[1:], engine.values[name][1:4])
    if does == "cap":
        assert "r" in engine.aborted
        assert engine.added[name]["cap"] == [[2, 0, 1.0, "response"]]
        assert engine.added[name]["steer"] == [[1, 0, "response"]]


def test_what_cannot_be_taken_is_refused(engine: Scripted) -> None:
    loop = VllmLoop(engine)
    with pytest.raises(UsageError, match="exceed the model's context of 100"):
        loop.submit(job(tokens=98))
    with pytest.raises(UsageError, match="no tokens"):
        loop.submit(DecodeJob(Request("r", ()), Sampling(3)))
    with pytest.raises(UsageError, match="vLLM cannot take this request: no such token"):
        loop.submit(DecodeJob(Request("r", (99,)), Sampling(3)))
    with pytest.raises(UsageError, match="layer 9 does not exist"):
        loop.submit(DecodeJob(Request("r", (40,), (Cap(9, torch.ones(32), 1.0),)), Sampling(3)))
    assert not loop.busy


def test_requests_of_a_worker_that_died_are_told(engine: Scripted) -> None:
    """Those that ran and those that come later; none waits for ever."""

    async def serve() -> list[str | None]:
        worker = Worker(lambda: VllmLoop(engine), max_rows=2, queue_size=2)
        await worker.start()
        errors = []
        for name in ("r", "s"):
            worker.submit(job(name), at_once=True)
            async with asyncio.timeout(60):
                errors += [batch.error async for batch in worker.batches(name)]
            assert not worker.alive
        await asyncio.to_thread(worker.stop)
        return errors

    engine.script = [Died(), Died()]
    errors = asyncio.run(serve())
    assert len(errors) == 2
    assert all(error is not None and "start the server again" in error for error in errors)


def test_a_loop_over_an_engine_that_died_says_so(engine: Scripted) -> None:
    loop = VllmLoop(engine)
    loop.submit(job())
    engine.script = [Died()]
    with pytest.raises(ModelError, match="lower --rows"):
        loop.step()
    assert not loop.alive
    loop.clear()
    assert not loop.busy


def test_logprobs_are_listed_by_rank() -> None:
    """vLLM gives the token that was chosen beside the most probable ones."""
    entries = {
        7: SimpleNamespace(logprob=-3.0, rank=9),
        4: SimpleNamespace(logprob=-2.0, rank=2),
        5: SimpleNamespace(logprob=-1.0, rank=1),
    }
    assert logprobs(entries, 7, 2) == (-3.0, ((5, -1.0), (4, -2.0)))
    assert logprobs(entries, 5, 0) == (-1.0, ())
