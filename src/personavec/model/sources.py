"""Find a model's files and read them with transformers, without running code from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from personavec.errors import ModelError, missing_extra
from personavec.model.embedded import EMBEDDED, embedded_gguf
from personavec.model.snapshots import snapshot_of_gguf

#: from_pretrained raises errors of many types, such as AssertionError for a missing device.
REFUSALS = (Exception,)


LOAD_IT_YOURSELF = "load the model yourself and pass it to wrap_model()"


def loading_error(what: str, error: Exception, remedy: str) -> ModelError:
    """A ModelError with the first line of transformers' error and a remedy."""
    if "trust_remote_code" in str(error):
        return own_code(what)
    return ModelError(f"{what} could not be loaded ({first_line(error)}); {remedy}")


def own_code(what: str) -> ModelError:
    return ModelError(
        f"{what} brings code of its own, which is not run; use one whose architecture and "
        f"tokenizer are part of transformers, or {LOAD_IT_YOURSELF}"
    )


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def from_pretrained(
    name: str, dtype: torch.dtype, model_args: Mapping[str, Any]
) -> tuple[Any, Any]:
    if name == EMBEDDED:
        source = str(snapshot_of_gguf(embedded_gguf()))
    elif name.endswith(".gguf"):
        source = str(snapshot_of_gguf(Path(name)))
    else:
        source = name
    try:
        kind = _model_class(source, model_args)
        given = {"dtype": dtype, **model_args, "trust_remote_code": False}
        model, info = kind.from_pretrained(source, **given, output_loading_info=True)
        if missing := sorted(info["missing_keys"]):
            # They would be random.
            raise ValueError(
                f"its files lack {len(missing)} of the weights that its config.json asks for, such "
                f"as {missing[0]}"
            )
        return model, load_tokenizer(source, model_args)
    except REFUSALS as error:
        if isinstance(error, ImportError) and "bitsandbytes" in str(error):
            raise missing_extra("quantise") from error
        shown = f" with {', '.join(f'{k}={v}' for k, v in model_args.items())}"
        raise loading_error(
            f"model '{name}'{shown if model_args else ''}",
            error,
            f"use '{EMBEDDED}', a Hugging Face id, a local folder or a .gguf file"
            + (", and check each --model-arg" if model_args else ""),
        ) from error


#: The arguments that select the files on the hub.
_WHERE = ("revision", "token", "cache_dir", "local_files_only", "subfolder")


#: Far more layers than any model has.
_MOST_LAYERS = 10_000


def _model_class(source: str, model_args: Mapping[str, Any]) -> Any:
    """The transformers class for a checkpoint: causal, or image-text where there is no causal."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    where = {key: model_args[key] for key in _WHERE if key in model_args}
    config = AutoConfig.from_pretrained(source, **where, trust_remote_code=False)
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    counts = [getattr(part, "num_hidden_layers", 0) for part in parts]
    layers = max((count for count in counts if isinstance(count, int)), default=0)
    if layers > _MOST_LAYERS:
        # transformers would build all layers before it reads the weights, and run out of memory.
        raise ValueError(f"its config.json says {layers} layers; at most {_MOST_LAYERS} are loaded")
    windows = [getattr(part, "sliding_window", None) for part in parts]
    if odd := [window for window in windows if not isinstance(window, int | None)]:
        raise ValueError(f"its config.json says a sliding_window of {str(odd[0])[:40]}")
    causal, pictures = (
        kind._model_mapping for kind in (AutoModelForCausalLM, AutoModelForImageTextToText)
    )
    only_pictures = type(config) in pictures and type(config) not in causal
    return AutoModelForImageTextToText if only_pictures else AutoModelForCausalLM


def load_tokenizer(source: str, model_args: Mapping[str, Any] | None = None) -> Any:
    """Load the tokenizer in a folder or on the hub, with its chat template."""
    from transformers import AutoTokenizer
    from transformers.utils.hub import cached_file

    where = {key: (model_args or {})[key] for key in _WHERE if key in (model_args or {})}
    tokenizer = AutoTokenizer.from_pretrained(source, **where, trust_remote_code=False)
    if not tokenizer.chat_template:
        # Older image-text checkpoints have their template in a separate file.
        missing_is_none: Any = {f"_raise_exceptions_for_{what}": False for what in _MISSING}
        file = cached_file(source, "chat_template.json", **where, **missing_is_none)
        if file is not None:
            tokenizer.chat_template = json.loads(Path(file).read_text("utf-8"))["chat_template"]
    tokenizer("a")  # a damaged tokenizer_config.json raises only when a text is encoded
    return tokenizer


_MISSING = ("gated_repo", "missing_entries", "connection_errors")
