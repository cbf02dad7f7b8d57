"""What workers read of requests that take a part of their prompt from the prefix cache, or are
preempted. The tokens of the model do not see each other, so a cached token is one that does not
come by."""

import pytest
import torch
from safetensors.torch import load
from vllm_runner import HIDDEN, LAYERS, Worker, alone, states

from personavec.model.engine.vllm_answer import opened
from personavec.model.engine.vllm_reading import Sums
from personavec.model.engine.vllm_worker import Residual

#: Tokens [0, 4) are two blocks that prompts share; the prompts have 5 tokens, the texts 8.
SHARED = states("shared", 4)


def started() -> tuple[Worker, Residual]:
    worker = Worker()
    residual = worker.hooked()
    unit = torch.eye(HIDDEN)[:1].contiguous()
    residual.begin({"table": torch.zeros(0, HIDDEN), "unit": unit}, [3])
    return worker, residual


def text(name: str) -> torch.Tensor:
    return torch.cat([SHARED, states(name, 4)])


def ask(worker: Worker, *names: str) -> None:
    for name in names:
        worker.ask(name, 5, response=[5, 8], beginning=[0, 1])


def check(worker: Worker, residual: Residual, *names: str) -> None:
    found, counts, _ = opened(residual.take(list(names)))
    for number, name in enumerate(names):
        expected = alone(worker.blocks, text(name), {})
        means = torch.stack(
            [expected[:, 5:].sum(1), expected[:, :5].mean(1), expected[:, 4]], dim=1
        )
        torch.testing.assert_close(found[f"sums {number}"], means)
        assert counts[str(number)] == 3


def test_what_came_from_the_cache_is_read_from_those_who_computed_it() -> None:
    """In the same pass, in a later one, and when the first has left."""
    worker, residual = started()
    ask(worker, "a", "bb", "ccc", "dddd")
    worker.step([("a", 0, text("a")[:5]), ("bb", 4, text("bb")[4:5])])
    worker.step([("a", 5, text("a")[5:6]), ("bb", 5, text("bb")[5:]), ("ccc", 2, text("ccc")[2:])])
    worker.step([("a", 6, text("a")[6:])])
    check(worker, residual, "a", "bb")
    worker.step([("dddd", 4, text("dddd")[4:])])
    check(worker, residual, "ccc", "dddd")


def test_a_block_in_pieces_is_counted_once() -> None:
    """Its first owner is preempted in the middle of it; another one computes it from its start."""
    worker, residual = started()
    ask(worker, "a", "bb", "ccc")
    worker.step([("a", 0, text("a")[:3])])
    worker.step([("bb", 2, text("bb")[2:]), ("ccc", 4, text("ccc")[4:])])
    # Set back, then taken from the cache further than it had come.
    worker.step([("a", 4, text("a")[4:6])])
    # Preempted in its response: it takes its own blocks, and what it computes again is not counted.
    worker.step([("a", 4, text("a")[4:7])])
    worker.step([("a", 0, text("a")[:7])])
    worker.step([("a", 7, text("a")[7:])])
    check(worker, residual, "a", "bb", "ccc")


def test_what_no_one_read_ends_the_run() -> None:
    worker, residual = started()
    ask(worker, "a", "bb")
    worker.ask("ccc", 5, response=[5, 8], beginning=[0])
    with pytest.raises(RuntimeError, match="cached block of request a was not captured"):
        worker.step([("a", 3, text("a")[3:])])
    with pytest.raises(RuntimeError, match="cached block of request ccc was not captured"):
        worker.step([("ccc", 4, text("ccc")[4:])])
    worker.step([("bb", 4, text("bb")[4:])])
    with pytest.raises(RuntimeError, match="cached block of request bb was not captured"):
        residual.take(["bb"])


def test_projections_go_on_where_they_stopped() -> None:
    """From the last prompt token on; nothing before it needs to run, nor twice what comes after."""
    worker, residual = started()
    worker.ask("a", 5, project=4)
    worker.ask("bb", 5, project=0)
    worker.step([("a", 4, text("a")[4:6])])
    worker.step([("a", 2, text("a")[2:7])])
    worker.step([("a", 7, text("a")[7:])])
    expected = alone(worker.blocks, text("a"), {})[3, 4:, :1]
    torch.testing.assert_close(load(residual.take(["a"]))["projections 0"], expected)
    with pytest.raises(RuntimeError, match="tokens of request bb came from the prefix cache"):
        worker.step([("bb", 2, text("bb")[2:])])


def test_rows_of_sums_are_used_again() -> None:
    sums = Sums(LAYERS, HIDDEN, torch.device("cpu"))
    first = sums.take(300)
    sums.add(1, torch.tensor(first[-2:]), torch.ones(2, HIDDEN))
    assert sums.of(first)[1].sum() == 2 * HIDDEN
    sums.give_back(first[:100])
    second = sums.take(400)
    assert not sums.of(second).any()
    assert not {*second} & {*first[100:]}
    assert sums.of(first[-2:])[1].sum() == 2 * HIDDEN
