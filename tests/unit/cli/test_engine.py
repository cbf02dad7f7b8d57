"""`--engine auto`: what it says, and that a run keeps the engine that it was begun with.

A transformers engine under vLLM's name stands for vLLM, and the rule's answer is given.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from personavec import LoadedModel, PersonaVector
from personavec.cli import groups
from personavec.cli.main import main
from personavec.errors import ModelError
from personavec.model.engine import TransformersEngine, choice


@dataclass(frozen=True, eq=False)
class UnderItsName(TransformersEngine):
    name: str = "vllm"
    mode: str = "vLLM runs the model eagerly"

    def close(self) -> None:
        pass


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Make vLLM installed and worth it, or neither; returns what it was started with."""

    def made(worth: bool, error: Exception | None = None) -> list[Any]:
        started: list[Any] = []

        def start(loaded: LoadedModel, arguments: dict[str, Any]) -> UnderItsName:
            started.append(arguments)
            if error is not None:
                raise error
            return UnderItsName(loaded)

        missing = None if worth else "vLLM is not installed"
        monkeypatch.setattr("personavec.model.engine.VllmEngine", start)
        monkeypatch.setattr(choice, "has_vllm", lambda: worth)
        monkeypatch.setattr(choice, "missing_vllm", lambda: missing)
        if worth:
            monkeypatch.setattr(choice, "why_not_vllm", lambda facts: None)
        return started

    return made


@pytest.fixture
def steer(
    base: LoadedModel,
    random_vector: Callable[..., PersonaVector],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, list[str], str]]:
    """Steers into one file; returns exit code, lines on stderr, and the engine in the manifest."""
    random_vector(base, layer=2, trait="odd").save(tmp_path / "vector")
    out = tmp_path / "out.jsonl"
    words = ["steer", "Hi?", "--vectors", str(tmp_path / "vector"), "--model", base.identity.name]

    def run(*more: str) -> tuple[int, list[str], str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*words, "--device", "cpu", "--max-tokens", "3", "--out", str(out), *more])
        said = capsys.readouterr().err.splitlines()
        manifest = json.loads((tmp_path / ".out.jsonl.run" / "manifest.json").read_text())
        lines = [line for line in said if line.startswith(("engine:", "error:"))]
        return int(ended.value.code or 0), lines, manifest["engine"]

    return run


def test_where_there_is_no_choice_nothing_is_said(steer: Any, vllm: Any) -> None:
    vllm(worth=False)
    assert steer() == (0, [], "transformers")


def test_why_vllm_is_not_chosen_is_said_where_it_is_installed(
    steer: Any, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm(worth=False)
    monkeypatch.setattr(choice, "missing_vllm", lambda: None)
    assert steer() == (0, ["engine: transformers (the model is on cpu)"], "transformers")


def test_that_vllm_would_be_worth_it_is_said(
    steer: Any, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm(worth=False)
    monkeypatch.setattr(choice, "why_not_vllm", lambda facts: facts.missing)
    assert steer() == (0, ["engine: transformers (vLLM is not installed)"], "transformers")


def test_a_run_goes_on_with_transformers_whatever_is_installed_by_then(
    steer: Any, vllm: Any, tmp_path: Path
) -> None:
    vllm(worth=False)
    assert steer()[2] == "transformers"
    written = (tmp_path / "out.jsonl").read_text()
    started = vllm(worth=True)
    begun = f"(with which {tmp_path / '.out.jsonl.run'} was begun)"
    assert steer() == (0, [f"engine: transformers {begun}"], "transformers")
    assert not started
    assert (tmp_path / "out.jsonl").read_text() == written
    code, [_, line], _ = steer("--engine", "vllm")
    assert code == 1
    assert 'engine was "transformers", now "vllm"' in line


def test_a_run_goes_on_with_vllm_or_says_what_is_missing(
    steer: Any, vllm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = vllm(worth=True)
    code, [line, mode], engine = steer()
    assert (code, engine, started) == (0, "vllm", [{}])
    assert line.startswith("engine: vllm (a large model on an accelerator")
    assert mode == "engine: vLLM runs the model eagerly"
    monkeypatch.setattr(choice, "why_not_vllm", lambda facts: "it is not worth it any more")
    begun = f"(with which {tmp_path / '.out.jsonl.run'} was begun)"
    assert steer() == (0, [f"engine: vllm {begun}", mode], "vllm")
    code, [line], _ = steer("--engine", "transformers")
    assert code == 1
    assert 'engine was "vllm", now "transformers"' in line
    vllm(worth=False)
    code, [line], _ = steer()
    assert code == 1
    assert "was begun with vLLM, which is not installed; install it with: pip install" in line


def test_where_the_choice_does_not_start_transformers_takes_over(steer: Any, vllm: Any) -> None:
    vllm(worth=True, error=ModelError("vLLM cannot load it; use --engine transformers"))
    code, lines, engine = steer()
    assert (code, engine) == (0, "transformers")
    assert lines[1] == "engine: transformers (vLLM cannot load it; use --engine transformers)"


def test_vllm_that_was_asked_for_must_start(steer: Any, vllm: Any, tmp_path: Path) -> None:
    vllm(worth=False)
    steer()  # Writes a manifest to read.
    vllm(worth=True, error=ModelError("vLLM cannot load it"))
    code, lines, _ = steer("--engine", "vllm")
    assert (code, lines) == (1, ["error: vLLM cannot load it"])


def test_settings_of_vllm_need_its_name(steer: Any, vllm: Any) -> None:
    started = vllm(worth=True)
    assert steer("--engine", "vllm", "--engine-arg", "max_num_seqs=3")[0] == 0
    assert started == [{"max_num_seqs": 3}]
    code, [line], _ = steer("--engine-arg", "max_num_seqs=3")
    assert code == 2
    assert "--engine-arg is for --engine vllm" in line


def test_an_evaluation_keeps_one_engine_for_both_models(
    base: LoadedModel,
    random_vector: Callable[..., PersonaVector],
    vllm: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its manifest names the engine with each model."""
    seen: list[Any] = []
    vllm(worth=True)
    monkeypatch.setattr(choice, "why_not_vllm", lambda facts: seen.append(facts) or "two models")
    out, folder = tmp_path / "out", base.identity.name
    words = ["evaluate", "--trait", "evil", "--model", folder, "--device", "cpu"]
    small = ["--preset", "quick", "--max-tokens", "2", "--out", str(out), "--samples", "1"]
    for said in ("engine: transformers (two models)", "engine: transformers (with which"):
        with pytest.raises(SystemExit):
            main([*words, *small, "--compare-to", f"{folder}/."])
        lines = capsys.readouterr().err.splitlines()
        [line] = [line for line in lines if line.startswith("engine:")]
        assert line.startswith(said)
    [facts] = seen
    assert (facts.models, facts.tokens) == (2, 2 * 6 * 2)
    manifest = json.loads((out / "manifest.json").read_text())
    assert [manifest[arm]["engine"] for arm in ("model", "other")] == ["transformers"] * 2


def test_a_served_model_has_no_run_to_continue(
    base: LoadedModel, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the engine is chosen at each start, and generates without end."""
    seen: list[Any] = []
    vllm(worth=True)
    monkeypatch.setattr(choice, "why_not_vllm", lambda facts: seen.append(facts))
    resolved = groups.EngineOptions().resolved(base)
    assert (resolved.engine, resolved.or_transformers) == ("vllm", True)
    assert seen[0].tokens is None
