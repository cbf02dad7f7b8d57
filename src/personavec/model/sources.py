"""Where a model's files are, and how transformers reads them: no code of theirs is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from personavec.errors import ModelError
from personavec.model.snapshots import EMBEDDED, embedded_gguf, snapshot_of_gguf

#: from_pretrained raises errors of many types: for a missing package or device (torch: an
#: AssertionError), an unknown argument, or damaged files.
REFUSALS = (Exception,)


LOAD_IT_YOURSELF = "load the model yourself and pass it to wrap_model()"


def loading_error(what: str, error: Exception, remedy: str) -> ModelError:
    """transformers' error in one line; an error about code in the folder has a line of its own."""
    if "trust_remote_code" in str(error):
        return own_code(what)
    return ModelError(f"{what} could not be loaded ({first_line(error)}); {remedy}")


def own_code(what: str) -> ModelError:
    return ModelError(
        f"{what} brings code of its own, which is not run; use one whose architecture and "
        f"tokenizer transformers has, or {LOAD_IT_YOURSELF}"
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
        shown = f" with {', '.join(f'{k}={v}' for k, v in model_args.items())}"
        raise loading_error(
            f"model '{name}'{shown if model_args else ''}",
            error,
            f"use '{EMBEDDED}', a Hugging Face id, a local folder or a .gguf file"
            + (", and check each --model-arg" if model_args else ""),
        ) from error


#: The arguments that say where on the hub, and in which version, the files are.
_WHERE = ("revision", "token", "cache_dir", "local_files_only", "subfolder")


#: Far above any model's.
_MOST_LAYERS = 10_000


def _model_class(source: str, model_args: Mapping[str, Any]) -> Any:
    """The class to load with: image-text checkpoints that are no causal models have their own."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    where = {key: model_args[key] for key in _WHERE if key in model_args}
    config = AutoConfig.from_pretrained(source, **where, trust_remote_code=False)
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    counts = [getattr(part, "num_hidden_layers", 0) for part in parts]
    layers = max((count for count in counts if isinstance(count, int)), default=0)
    if layers > _MOST_LAYERS:
        # transformers builds all layers before it looks at the weights, until memory runs out.
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
    """The tokenizer in a folder or on the hub, with the chat template that lies beside it."""
    from transformers import AutoTokenizer
    from transformers.utils.hub import cached_file

    where = {key: (model_args or {})[key] for key in _WHERE if key in (model_args or {})}
    tokenizer = AutoTokenizer.from_pretrained(source, **where, trust_remote_code=False)
    if not tokenizer.chat_template:
        # Older image-text checkpoints have their template in a file of the processor.
        missing_is_none: Any = {f"_raise_exceptions_for_{what}": False for what in _MISSING}
        file = cached_file(source, "chat_template.json", **where, **missing_is_none)
        if file is not None:
            tokenizer.chat_template = json.loads(Path(file).read_text("utf-8"))["chat_template"]
    tokenizer("a")  # a damaged tokenizer_config.json is noticed with the first text
    return tokenizer


_MISSING = ("gated_repo", "missing_entries", "connection_errors")
