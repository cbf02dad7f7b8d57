"""The loss that is trained on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import run

from personavec import LoadedModel
from personavec.errors import ActivationError


def test_the_loss_is_that_of_trl(
    fresh: Callable[..., LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss made where logits count, against TRL's own, on whole runs."""
    from personavec.finetune import trainer

    ours = run(fresh(), tmp_path / "ours").losses
    taken = trainer.FinetuneTrainer.__init__

    def theirs(self: Any, *args: Any, **kwargs: Any) -> None:
        taken(self, *args, **kwargs)
        self._takes_kept = False

    monkeypatch.setattr(trainer.FinetuneTrainer, "__init__", theirs)
    assert run(fresh(), tmp_path / "theirs").losses == pytest.approx(ours, abs=1e-4)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_what_was_trained(
    fresh: Callable[..., LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from personavec.finetune import trainer

    loss = trainer.FinetuneTrainer._loss

    def breaking(self: Any, *args: Any) -> Any:
        total, logits = loss(self, *args)
        return (total * torch.nan if self.state.global_step == 3 else total), logits

    monkeypatch.setattr(trainer.FinetuneTrainer, "_loss", breaking)
    with pytest.raises(ActivationError, match=r"nan at step 4.*checkpoint"):
        run(fresh(), tmp_path)
    assert (tmp_path / "run" / "checkpoint-2" / "complete.json").exists()
    monkeypatch.setattr(trainer.FinetuneTrainer, "_loss", loss)
    assert run(fresh(), tmp_path).steps == 4
