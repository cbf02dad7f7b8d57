"""Apply LoRA adapters to a loaded model, and remove them again."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

from personavec.errors import ModelError, missing_extra
from personavec.model.loaded import LoadedModel
from personavec.model.sources import load_tokenizer, loading_error, own_code
from personavec.plain import parse_json

#: Files that show that a folder has its own tokenizer, or only its own chat template.
_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json")
_TEMPLATE_FILE = "chat_template.jinja"


def is_adapter(name: str) -> bool:
    """Whether a model's name is a folder with an adapter."""
    return (Path(name) / "adapter_config.json").is_file()


def apply_adapter(network: Any, folder: str, *, base_name: str) -> Any:
    """Apply the adapter in `folder` to a network. Raises ModelError if it does not fit."""
    try:
        from peft import PeftModel, get_peft_model_state_dict
        from peft.utils import load_peft_weights
        from peft.utils.other import EMBEDDING_LAYER_NAMES
    except ImportError:
        raise missing_extra("finetune") from None
    named = read_adapter(folder)["base_model_name_or_path"]
    if named != base_name:
        raise ModelError(
            f"{folder} is an adapter of '{named}', not of '{base_name}'; name its own base model"
        )
    try:
        with warnings.catch_warnings():
            # peft only warns of weights without a counterpart; an error is raised below.
            warnings.filterwarnings("ignore", "Found missing adapter keys")
            found = PeftModel.from_pretrained(network, folder)
        stored = load_peft_weights(folder, device="cpu").keys()
        # Passed, because peft would otherwise look up the base model's configuration on the hub.
        embeddings = any(layer in name for layer in EMBEDDING_LAYER_NAMES for name in stored)
        expected = get_peft_model_state_dict(found, save_embedding_layers=embeddings).keys()
        if odd := stored ^ expected:
            take_off(found)
            raise ValueError(f"{len(odd)} weights have no counterpart, such as {min(odd)}")
    except Exception as error:  # a damaged file makes peft raise almost anything
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the adapter in {folder} does not fit its base model '{base_name}' ({first_line}); "
            "check base_model_name_or_path in its adapter_config.json"
        ) from error
    return found


def read_adapter(folder: str) -> dict[str, Any]:
    """Read an adapter's configuration. Raises ModelError unless it names a base model."""
    path = Path(folder) / "adapter_config.json"
    try:
        config = parse_json(path.read_bytes())
        base_name = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} holds no readable LoRA adapter ({error})") from error
    if not isinstance(base_name, str) or not base_name:
        raise ModelError(f"{folder}: its adapter_config.json names no base model")
    # peft would import the modules that these settings name.
    if config.get("megatron_config") or config.get("auto_map"):
        raise own_code(f"the adapter in {folder}")
    return config


def adapter_tokenizer(folder: str, base: LoadedModel) -> Any:
    """The adapter's own tokenizer and chat template, or those of the base where it has none.

    Raises ModelError if the tokenizer cannot be loaded, or has more tokens than the model.
    """
    if any((Path(folder) / name).is_file() for name in _TOKENIZER_FILES):
        try:
            found = load_tokenizer(folder)
        except Exception as error:  # a damaged file makes transformers raise almost anything
            remedy = "remove its tokenizer files to use the base model's tokenizer"
            raise loading_error(f"the tokenizer in {folder}", error, remedy) from error
        rows = base.model.get_input_embeddings().weight.shape[0]
        if len(found) > rows:
            raise ModelError(
                f"the tokenizer in {folder} has {len(found)} tokens, the base model {rows}; merge "
                "the adapter into its base model first"
            )
        if not found.chat_template:
            found.chat_template = base.tokenizer.chat_template
        return found
    template = Path(folder) / _TEMPLATE_FILE
    if not template.is_file():
        return base.tokenizer
    found = copy.deepcopy(base.tokenizer)
    found.chat_template = template.read_text("utf-8")
    return found


def take_off(network: Any) -> None:
    """Remove the adapter from a network, including the configuration that peft leaves behind."""
    base = network.unload()
    for name in ("peft_config", "_hf_peft_config_loaded"):
        if name in vars(base):
            delattr(base, name)
