"""Load a model with its tokenizer: the embedded one, a hub id, a local folder, or a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from personavec.errors import ModelError, UsageError
from personavec.model.embedded import EMBEDDED, EMBEDDED_PACKAGE, embedded_gguf
from personavec.model.loaded import LoadedModel, adapted_weights, wrap_model
from personavec.model.packing import pack
from personavec.model.sources import LOAD_IT_YOURSELF, REFUSALS, first_line, from_pretrained
from personavec.model.weights import hash_of_files


def choose_device(device: str | None) -> str:
    """The named device, or by default the best available of cuda, mps and cpu."""
    if device:
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_dtype(dtype: str | None, device: str) -> torch.dtype:
    """The named dtype, or by default the best for the device. Raises ModelError."""
    if dtype:
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise ModelError(f"--dtype {dtype}: use float32, bfloat16 or float16")
        return found
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device == "cpu":
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    return torch.float32


def load_model(
    name: str = EMBEDDED,
    *,
    dtype: str | None = None,
    device: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    template_args: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a model and its tokenizer for inference; on a processor its weights are packed.

    `name` is `smollm2` (embedded), a Hugging Face id, a local folder, a folder with a LoRA
    adapter, or a `.gguf` file. `model_args` are passed to transformers' `from_pretrained`
    (`device_map`, `quantization_config`, `revision` …), `template_args` to the chat template.

    Raises ModelError if it cannot be loaded, and UsageError for `trust_remote_code`.
    """
    model_args, template_args = dict(model_args or {}), dict(template_args or {})
    if "trust_remote_code" in model_args:
        raise UsageError(
            "--model-arg trust_remote_code runs code from the model's repository, which "
            f"personavec does not do; {LOAD_IT_YOURSELF}"
        )
    if (Path(name) / "adapter_config.json").is_file():
        return _load_adapter(name, dtype, device, model_args, template_args)
    device = choose_device(device)
    model, tokenizer = from_pretrained(name, choose_dtype(dtype, device), model_args)
    # With these arguments from_pretrained has placed the weights itself.
    if not {"device_map", "quantization_config"} & model_args.keys():
        model = _on_device(model, device)
    revision = None
    if name == EMBEDDED:
        revision = f"{EMBEDDED_PACKAGE} {metadata.version(EMBEDDED_PACKAGE)}"
    loaded = wrap_model(
        model,
        tokenizer,
        name=name,
        revision=revision,
        template_args=template_args,
        arguments=model_args,
        weights=_weights(name, model, model_args),
    )
    pack(loaded.model)
    _try_out(loaded)
    return loaded


def _try_out(loaded: LoadedModel) -> None:
    """Run a forward pass over two tokens. Raises ModelError if it fails.

    It detects errors in a config.json that loading does not, such as a wrong attention window.
    """
    from personavec.model.engine import try_forward

    name = loaded.identity.name
    if loaded.context < 2:
        raise ModelError(
            f"model '{name}' has a context of {loaded.context} tokens by its config.json; correct "
            "max_position_embeddings there"
        )
    window = getattr(loaded.model.config.get_text_config(), "sliding_window", None)
    if isinstance(window, int) and window < 1:
        raise ModelError(
            f"model '{name}' has an attention window of {window} tokens by its config.json; "
            "correct sliding_window there"
        )
    try:
        try_forward(loaded)
    except REFUSALS as error:
        raise ModelError(
            f"model '{name}' was loaded but cannot read two tokens ({first_line(error)}); "
            "its config.json is wrong, or the device does not support an operation"
        ) from error


def weights_of(name: str) -> str | None:
    """The `ModelIdentity.weights` of a model that is not loaded; None if unknown.

    For an adapter it covers only the adapter. Raises ModelError for unreadable files.
    """
    from transformers import AutoConfig

    source = embedded_gguf() if name == EMBEDDED else Path(name)
    if source.exists():
        return hash_of_files(source)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except REFUSALS:
        return None  # loading the model will raise the error
    return getattr(config, "_commit_hash", None)


def _weights(name: str, model: Any, model_args: Mapping[str, Any]) -> str | None:
    """A hash of the model's files, or its commit on the hub; None if there is neither."""
    source = embedded_gguf() if name == EMBEDDED else Path(name)
    if source.exists():
        return hash_of_files(source, subfolder=str(model_args.get("subfolder") or ""))
    return getattr(model.config, "_commit_hash", None)


def _on_device(model: Any, device: str) -> Any:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"the model cannot be moved to --device {device} ({first_line(error)}); use cpu, or "
            "a device that this installation of torch can use"
        ) from error


def _load_adapter(
    folder: str,
    dtype: str | None,
    device: str | None,
    model_args: dict[str, Any],
    template_args: dict[str, Any],
) -> LoadedModel:
    """Load the base model that a LoRA adapter names, and apply the adapter."""
    from personavec.model.adapters import adapter_tokenizer, apply_adapter, read_adapter

    base_name = read_adapter(folder)["base_model_name_or_path"]
    if (Path(base_name) / "adapter_config.json").is_file():
        raise ModelError(
            f"the adapter in {folder} names another adapter, {base_name}, as its base model; "
            "merge that one into its own base first"
        )
    base = load_model(
        base_name,
        dtype=dtype,
        device=device,
        model_args=model_args,
        template_args=template_args,
    )
    loaded = wrap_model(
        apply_adapter(base.model, folder, base_name=base.identity.name),
        adapter_tokenizer(folder, base),
        name=folder,
        declared_base=base.identity.name,
        template_args=template_args,
        arguments=model_args,
        weights=adapted_weights(base.identity, folder),
    )
    pack(loaded.model)
    return loaded
