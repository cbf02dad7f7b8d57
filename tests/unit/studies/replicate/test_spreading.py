"""Finetunes side by side are those of one process."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tiny_models import saved
from training_runs import QUIET, ROWS, SMALL

from personavec import load_model
from personavec.finetune import FinetuneConfig
from personavec.studies.replicate.spreading import TrainingJob, Workers, train_all, workers_of


@pytest.fixture
def folder(tmp_path: Path) -> str:
    saved(tmp_path / "model")
    return str(tmp_path / "model")


def test_two_processes_train_what_one_would(folder: str, tmp_path: Path) -> None:
    """Also where the workers load the model themselves."""

    def jobs(name: str) -> list[TrainingJob]:
        configs = [FinetuneConfig(training=replace(SMALL, seed=seed)) for seed in (0, 1)]
        return [TrainingJob(ROWS, tmp_path / name / f"{i}", own) for i, own in enumerate(configs)]

    load = partial(load_model, folder, dtype="float32")
    expected = train_all(load(), jobs("alone"), None, QUIET)
    found = train_all(load(), jobs("spread"), Workers(load, devices=2), QUIET)
    assert [own.losses for own in found] == [pytest.approx(own.losses) for own in expected]
    assert found[0].losses != found[1].losses


def test_a_processor_is_one_device(folder: str) -> None:
    load = partial(load_model, folder, dtype="float32")
    assert workers_of(load(), load, None).devices == 1
