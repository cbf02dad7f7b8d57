"""Load a finetuned model for a while, using little memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from personavec.errors import ModelError
from personavec.model.adapters import adapter_tokenizer, apply_adapter, is_adapter, take_off
from personavec.model.embedded import EMBEDDED
from personavec.model.loaded import LoadedModel, adapted_weights, wrap_model
from personavec.model.loading import load_model
from personavec.model.packing import pack

_CONFIGS = ("config.json", "adapter_config.json")


def check_tuned(name: str) -> None:
    """Raise ModelError for a model that does not exist, before the base model is run."""
    if name == EMBEDDED or is_adapter(name) or (Path(name) / "config.json").is_file():
        return
    if Path(name).is_dir():
        raise ModelError(
            f"folder '{name}' holds neither an adapter nor a model; name the one with "
            "adapter_config.json or config.json in it"
        )
    if name.endswith(".gguf") and Path(name).is_file():
        return
    from transformers.utils.hub import cached_file

    try:
        if any(
            cached_file(name, file, _raise_exceptions_for_missing_entries=False)
            for file in _CONFIGS
        ):
            return
        why = "it has no config.json"
    except (OSError, ValueError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise ModelError(
        f"model '{name}' was not found ({why}); use '{EMBEDDED}', a Hugging Face id, a local "
        "folder or a .gguf file"
    )


@contextmanager
def tuned_model(base: LoadedModel, name: str) -> Iterator[LoadedModel]:
    """A finetuned model for the duration of this context.

    An adapter is applied to `base` itself and removed at the end; meanwhile, do not use `base`. Any
    other model is loaded in addition to `base`, with its precision and on its device. Raises
    ModelError for a model that cannot be loaded, and for an adapter of another base.
    """
    if not is_adapter(name):
        loaded = load_model(name, dtype=base.identity.dtype, device=str(base.device))
        try:
            yield loaded
        finally:
            del loaded
            gc.collect()
        return
    tokenizer = adapter_tokenizer(name, base)
    network: Any = apply_adapter(base.model, name, base_name=base.identity.name)
    pack(network)
    try:
        yield wrap_model(
            network,
            tokenizer,
            name=name,
            declared_base=base.identity.name,
            template_args=base.chat.template_args,
            weights=adapted_weights(base.identity, name),
        )
    finally:
        take_off(network)
        pack(base.model)
