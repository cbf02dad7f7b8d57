"""Checkpoints are whole, the last good one is what is kept, and its bytes are the same anywhere."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import Make, axes_of, probe_states, run, vector_along

from personavec import LoadedModel
from personavec.conditions import Condition
from personavec.errors import UsageError
from personavec.finetune.checkpoints import publish
from personavec.model import hash_of_files
from personavec.runs import read_records


def test_a_condition_stops_the_run_and_keeps_the_last_good_checkpoint(
    fresh: Callable[..., LoadedModel], random_vector: Make, tmp_path: Path
) -> None:
    loaded = fresh()
    some = random_vector(loaded, layer=2)
    axes = axes_of(some)
    more: dict[str, Any] = {"training": {"epochs": 4}}
    plain = run(loaded, tmp_path / "plain", watch=axes, **more)
    states = probe_states(tmp_path / "plain" / "drift.jsonl", axes)
    # Along both steps' movements together the drift rises at each.
    steps = [after - before for before, after in pairwise(states[:3])]
    vector = vector_along(some, sum((step / step.norm() for step in steps), torch.zeros(32)))
    unit = vector.direction(2) / vector.direction(2).norm()
    first, second, third = (float(state @ unit) for state in states[:3])
    assert first < second < third
    line = Condition("testing", ">", (second + third) / 2, "sigma")
    found = run(loaded, tmp_path / "stopped", vector, config={"stop_if": (line,)}, **more)
    drift = read_records(tmp_path / "stopped" / "drift.jsonl")
    read = [record["traits"]["testing"]["sigma"] for record in drift]
    assert read == pytest.approx([first, second, third], abs=1e-4)
    assert found.stopped == str(line)
    assert (found.steps, plain.steps) == (4, 8)
    # Step 4 met it: what is kept is step 2.
    assert [p.name for p in (tmp_path / "stopped" / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    assert (tmp_path / "stopped" / "model" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "stopped" / "run" / "checkpoint-2" / "adapter_model.safetensors"
    ).read_bytes()
    met = {"stop_if": (Condition("testing", ">", first - 1),)}
    with pytest.raises(UsageError, match="met before training"):
        run(loaded, tmp_path / "met", vector, config=met)
    with pytest.raises(UsageError, match="no vector for trait 'evil'"):
        run(loaded, tmp_path / "other", vector, config={"stop_if": (Condition("evil", ">", 1),)})
    wrong = Condition("testing", ">", 1, "projection")
    with pytest.raises(UsageError, match="unit must be sigma or norm"):
        run(loaded, tmp_path / "unit", vector, config={"stop_if": (wrong,)})
    vector.neutral_prompt_last[2, 1] = 0.0
    with pytest.raises(UsageError, match="so it has no sigma"):
        run(loaded, tmp_path / "flat", vector, config={"stop_if": (Condition("testing", ">", 9),)})


def test_an_adapters_configuration_has_the_same_bytes_in_every_process(
    fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    """peft makes its list of modules of a set, whose order differs between processes."""
    found = run(fresh(), tmp_path / "run")
    assert found.model is not None
    config = found.model / "adapter_config.json"
    modules = json.loads(config.read_text())["target_modules"]
    assert len(modules) == 7
    assert modules == sorted(modules)
    for i, order in enumerate(([2, 0, 1], [1, 2, 0])):
        folder = tmp_path / f"aside-{i}"
        folder.mkdir()
        made = json.dumps({"target_modules": [modules[place] for place in order]})
        (folder / "adapter_config.json").write_text(made)
        publish(folder, tmp_path / f"saved-{i}", "base")
    assert len({hash_of_files(tmp_path / f"saved-{i}") for i in range(2)}) == 1


def test_a_full_disk_is_one_line_and_leaves_no_torn_checkpoint(
    fresh: Callable[..., LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from personavec.errors import StorageError

    saved = torch.save

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StorageError, match="disk full"):
        run(fresh(), tmp_path)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    monkeypatch.setattr(torch, "save", saved)
    assert run(fresh(), tmp_path).steps == 4
