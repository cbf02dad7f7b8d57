"""What `personavec models` shows: the models that need no download, and what one looks like."""

from __future__ import annotations

from dataclasses import dataclass

from personavec.errors import ModelError
from personavec.model.chat_format import chat
from personavec.model.loaded import LoadedModel, ModelIdentity
from personavec.model.snapshots import EMBEDDED, cache_folder, embedded_gguf
from personavec.vectors import bundled_vectors


@dataclass(frozen=True)
class EmbeddedModel:
    """The model that a package brings along."""

    name: str
    file: str | None
    """None where the package is not installed."""
    vectors: list[str]
    """The traits of its bundled vectors."""


@dataclass(frozen=True, kw_only=True)
class ModelList:
    """Where models come from."""

    format: int = 1
    embedded: EmbeddedModel
    cache: str
    """The folder that keeps what is derived from models."""
    others: str = "any Hugging Face id, local folder or .gguf file"


@dataclass(frozen=True, kw_only=True)
class ModelDescription(ModelIdentity):
    """A model's identity, and what was found in it."""

    format: int = 1
    device: str
    context: int
    """Longest prompt and response together, in tokens."""
    block: str
    """The class of its decoder blocks."""
    parameters: int
    notes: list[str]
    """What its chat template does not support, and what is done instead."""
    prompt: str
    """A short conversation, as its chat template writes it."""


def list_models() -> ModelList:
    """The embedded model with its vectors, and where others come from."""
    try:
        file: str | None = str(embedded_gguf())
    except ModelError:
        file = None
    return ModelList(
        embedded=EmbeddedModel(EMBEDDED, file, bundled_vectors()), cache=str(cache_folder())
    )


def describe(loaded: LoadedModel) -> ModelDescription:
    """What was found in a model."""
    return ModelDescription(
        **loaded.identity.as_dict(),
        device=str(loaded.device),
        context=loaded.context,
        block=type(loaded.blocks.stack[0]).__name__,
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        notes=list(loaded.chat.notes),
        prompt=loaded.chat.text(chat("What is a persona?", "Be brief.")),
    )
