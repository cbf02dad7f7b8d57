"""An extraction's data flows one way."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_extraction import CONFIG, SPEC

from personavec import LoadedModel
from personavec.extract import pipeline
from personavec.progress import Progress
from personavec.runs import read_records


@pytest.mark.parametrize("again", [False, True])
def test_every_file_is_read_once(
    llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Records and activations, by a run that makes everything and by one that finds it made."""
    monkeypatch.setattr(
        "personavec.judges.coherence_model.CoherenceModel.coherence", lambda *_: 90.0
    )
    monkeypatch.setattr("personavec.extract.extraction.MIN_KEPT", 1)
    if again:
        pipeline.run(llama, SPEC, tmp_path, CONFIG, progress=Progress(quiet=True))
    read: Counter[str] = Counter()

    def records(path: Path) -> list[dict[str, Any]]:
        read[str(path.relative_to(tmp_path))] += 1
        return read_records(path)

    def tensors(path: Path) -> dict[str, Any]:
        read[str(path.relative_to(tmp_path))] += 1
        return load_file(path)

    monkeypatch.setattr("personavec.rollouts.rollout.read_records", records)
    monkeypatch.setattr("personavec.rollouts.judging.read_records", records)
    monkeypatch.setattr("personavec.rollouts.rollout.load_file", tensors)
    pipeline.run(llama, SPEC, tmp_path, CONFIG, progress=Progress(quiet=True))
    assert set(read.values()) == {1}
    stages = ("extraction", "layer-sweep", "dose-response", "random-directions", "system-prompts")
    for stage in stages:
        for name in ("generated.jsonl", "scores.jsonl"):
            assert f"run/{stage}/{name}" in read
    assert any(name.startswith("activations/") for name in read)
