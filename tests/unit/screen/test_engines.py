"""One engine runs a whole screen: it scores the rows and generates natural responses."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from personavec import LoadedModel, PersonaVector
from personavec.errors import DataError, SettingsMismatchError, UsageError
from personavec.model.engine import TransformersEngine
from personavec.progress import Progress
from personavec.results import dump, read
from personavec.screen import ScreenConfig, ScreenResults, run

Make = Callable[..., PersonaVector]


@dataclass(frozen=True, eq=False)
class Counting(TransformersEngine):
    """A transformers engine that counts what it is asked for."""

    texts: list[int] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)

    def project(self, texts: Any, *args: Any, **kwargs: Any) -> Any:
        self.texts.append(len(texts))
        return super().project(texts, *args, **kwargs)

    def generate(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        self.prompts.append(len(requests))
        return super().generate(requests, *args, **kwargs)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Say {i}", "response": f"No, {i}."} for i in range(9)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def screened(vector: PersonaVector, data: Path, out: Path, engine: Counting) -> ScreenResults:
    config = ScreenConfig(natural="generate", natural_tokens=2, random_directions=1)
    quiet = Progress(quiet=True)
    return run(engine.loaded, [vector], [data], out, config, engine=engine, progress=quiet)


def test_the_engine_does_all_of_it(
    llama: LoadedModel, random_vector: Make, data: Path, tmp_path: Path
) -> None:
    """No text goes through it more than once: nothing is timed."""
    engine, out = Counting(llama, name="other"), tmp_path / "out"
    found = screened(random_vector(llama, 1), data, out, engine)
    assert (sum(engine.texts), sum(engine.prompts)) == (9, 9)
    assert found.engine.scoring == found.engine.generating == engine.describe()
    assert not any("engine" in note for note in found.notes)
    assert read(ScreenResults, out / "results.json").engine == found.engine


def test_a_screen_that_timed_its_engines_continues_with_the_same_or_is_refused(
    llama: LoadedModel, random_vector: Make, data: Path, tmp_path: Path
) -> None:
    vector, engine, out = random_vector(llama, 1), Counting(llama, name="other"), tmp_path / "out"
    found = screened(vector, data, out, engine)
    kept = out / "run" / "engine.json"
    speeds = {"tokens_per_second": {"transformers": 1.0, "other": 2.0}, "texts": 9}
    kept.write_text(json.dumps({"engine": "other", **speeds}), "utf-8")
    assert screened(vector, data, out, engine).traits == found.traits
    kept.write_text(json.dumps({"engine": "transformers", **speeds}), "utf-8")
    with pytest.raises(SettingsMismatchError, match="scored with transformers and") as caught:
        screened(vector, data, out, engine)
    assert "use another --out" in str(caught.value)
    kept.write_text("[]", "utf-8")
    with pytest.raises(DataError, match=r"engine\.json is damaged"):
        screened(vector, data, out, engine)


def test_results_with_measured_speeds_are_still_read(
    llama: LoadedModel, random_vector: Make, data: Path, tmp_path: Path
) -> None:
    found = screened(random_vector(llama, 1), data, tmp_path / "out", Counting(llama))
    earlier = dump(found)
    earlier["engine"]["scoring"]["measured"] = {"tokens_per_second": {"vllm": 1.0}, "texts": 64}
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps(earlier), "utf-8")
    assert read(ScreenResults, path).engine.scoring["name"] == "transformers"


def test_a_cluster_runs_no_other_engine(llama: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Ray cluster"):
        run(llama, [], [], tmp_path, ray="local", engine=Counting(llama, name="other"))
