"""A screen takes the engine that is faster on its data, says which, and stays with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from personavec import LoadedModel
from personavec.errors import UsageError
from personavec.model import Directions
from personavec.model.engine import TransformersEngine
from personavec.screen import engines, pipeline as screen

TEXTS = [np.arange(5, 5 + n, dtype=np.int32) for n in (3, 9, 6)]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, eq=False)
class Timed(TransformersEngine):
    """A transformers engine for which each text takes some seconds of a clock of the test's own."""

    clock: Any = None
    seconds: float = 1.0

    def project(self, texts: Any, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        self.clock.now += self.seconds * len(texts)
        return super().project(texts, *args, **kwargs)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(engines.time, "perf_counter", clock)
    return clock


@pytest.mark.parametrize(("seconds", "winner"), [(0.5, "other"), (2.0, "transformers")])
def test_the_faster_one_is_taken_and_kept(
    llama: LoadedModel, tmp_path: Path, clock: Clock, seconds: float, winner: str
) -> None:
    directions = Directions((1,), torch.eye(llama.identity.hidden_size)[:1])
    both = [
        Timed(llama, clock=clock),
        Timed(llama, name="other", clock=clock, seconds=seconds),
    ]
    kept = tmp_path / "run" / "engine.json"
    choice = engines.faster(both, TEXTS, directions, kept)
    assert choice.engine.name == winner
    assert choice.tokens_per_second == {"transformers": 6.0, "other": 18 / (3 * seconds)}
    assert f"scored by the {winner} engine" in choice.note()
    assert choice.describe()["measured"]["texts"] == 3
    # A continued run measures nothing again.
    turned = [Timed(llama, clock=clock, seconds=9), Timed(llama, name="other", clock=clock)]
    again = engines.faster(turned, TEXTS, directions, kept)
    assert again.engine.name == winner
    assert again.tokens_per_second == choice.tokens_per_second


def test_a_cluster_runs_no_other_engine(llama: LoadedModel, tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(UsageError, match="Ray cluster"):
        screen.run(
            llama, [], [], tmp_path, ray="local", engine=Timed(llama, name="other", clock=clock)
        )
