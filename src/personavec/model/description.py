"""The results of `personavec models`: the available models, and the description of one."""

from __future__ import annotations

from dataclasses import dataclass

from personavec.errors import ModelError
from personavec.model.chat_format import chat
from personavec.model.embedded import EMBEDDED, embedded_gguf
from personavec.model.loaded import LoadedModel, ModelIdentity
from personavec.runs import cache_folder
from personavec.vectors import bundled_vectors, bundled_verdicts


@dataclass(frozen=True)
class EmbeddedModel:
    """The model that comes with a Python package."""

    name: str
    file: str | None
    """Its GGUF file; None if the package is not installed."""
    vectors: list[str]
    """The traits of its bundled vectors."""
    verdicts: dict[str, str | None]
    """Whether steering with them worked."""


@dataclass(frozen=True, kw_only=True)
class ModelList:
    """The models that can be used."""

    format: int = 1
    embedded: EmbeddedModel
    cache: str
    """The folder for files that are derived from models, such as converted weights."""
    others: str = "any Hugging Face id, local folder or .gguf file"


@dataclass(frozen=True, kw_only=True)
class ModelDescription(ModelIdentity):
    """A model's identity and properties."""

    format: int = 1
    device: str
    context: int
    """Most tokens of a prompt and its response together."""
    block: str
    """The class of its decoder blocks."""
    parameters: int
    notes: list[str]
    """What the chat template does not support, and what is done instead."""
    verdicts: dict[str, str | None]
    """Whether steering with the bundled vectors worked, where they are this model's."""
    prompt: str
    """A short conversation as the chat template writes it."""


def list_models() -> ModelList:
    """The embedded model with its vectors, and how to name other models."""
    try:
        file: str | None = str(embedded_gguf())
    except ModelError:
        file = None
    return ModelList(
        embedded=EmbeddedModel(EMBEDDED, file, bundled_vectors(), bundled_verdicts()),
        cache=str(cache_folder()),
    )


def describe(loaded: LoadedModel) -> ModelDescription:
    """Describe a loaded model."""
    return ModelDescription(
        **loaded.identity.as_dict(),
        device=str(loaded.device),
        context=loaded.context,
        block=type(loaded.blocks.stack[0]).__name__,
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        notes=list(loaded.chat.notes),
        verdicts=bundled_verdicts() if loaded.identity.name == EMBEDDED else {},
        prompt=loaded.chat.text(chat("What is a persona?", "Be brief.")),
    )
