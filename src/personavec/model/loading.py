"""Load a model with its tokenizer: the embedded one, a hub id, a local folder, or a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from personavec.errors import ModelError, UsageError
from personavec.model.blocks import Blocks, find_blocks, input_device
from personavec.model.chat import ChatFormat, stop_ids
from personavec.model.memory import bound_kernel_caches
from personavec.model.snapshots import (
    EMBEDDED,
    EMBEDDED_PACKAGE,
    embedded_gguf,
    snapshot_of_gguf,
)
from personavec.model.weights import combined, hash_in_memory, hash_of_files


@dataclass(frozen=True)
class ModelIdentity:
    """What a result says about the model it came from."""

    name: str
    revision: str | None
    dtype: str
    n_layers: int
    hidden_size: int
    template_hash: str
    declared_base: str | None = None
    """The model that this one descends from, where it says so: an adapter's base."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """What was passed on to `from_pretrained` and to the chat template."""
    weights: str | None = None
    """What the model's files hold, whatever their name: the hub's commit, a hash of local files, or
    a fingerprint of parameters in memory; of an adapter, with its base's."""
    today: str | None = None
    """The date that stands in every prompt, where the chat template writes one."""

    @property
    def lineage(self) -> tuple[str, str | None, str | None]:
        """Name, declared base and weights: what tells whether a vector is this model's."""
        return self.name, self.declared_base, self.weights

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to use: the network, its chat format, and who it is."""

    model: Any  # a transformers causal language model, wrapped or not
    tokenizer: Any
    chat: ChatFormat
    identity: ModelIdentity

    @property
    def blocks(self) -> Blocks:
        return find_blocks(self.model)

    @property
    def device(self) -> torch.device:
        return input_device(self.model)

    @property
    def stop_ids(self) -> frozenset[int]:
        """What ends a response: the end-of-text tokens, and the one that the template writes."""
        found = stop_ids(self.model, self.tokenizer)
        return found if self.chat.turn_end is None else found | {self.chat.turn_end}

    @property
    def context(self) -> int:
        """The longest sequence the model takes, in tokens."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 1 << 20))


def choose_device(device: str | None) -> str:
    if device:
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_dtype(dtype: str | None, device: str) -> torch.dtype:
    """bf16 where the processor has it, float32 elsewhere, unless set."""
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
    """Load a model and its tokenizer for inference.

    `name` is `smollm2` (embedded), a Hugging Face id, a local folder, a folder that holds a LoRA
    adapter, or a `.gguf` file. `model_args` go to transformers' `from_pretrained` (`device_map`,
    `quantization_config`, `revision` …), `template_args` to the chat template.

    Raises ModelError, in one line with the remedy, when it cannot be loaded.
    """
    model_args, template_args = dict(model_args or {}), dict(template_args or {})
    if "trust_remote_code" in model_args:
        raise UsageError(
            "--model-arg trust_remote_code runs code from the model's repository, which "
            f"personavec does not do; {_LOAD_IT_YOURSELF}"
        )
    if (Path(name) / "adapter_config.json").is_file():
        return _load_adapter(name, dtype, device, model_args, template_args)
    device = choose_device(device)
    model, tokenizer = _from_pretrained(name, choose_dtype(dtype, device), model_args)
    # Weights that from_pretrained has placed or packed itself stay where they are.
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
    _try_out(loaded)
    return loaded


def _try_out(loaded: LoadedModel) -> None:
    """Raise ModelError where the model cannot read two tokens, as those after them are read.

    Much of a config.json is only looked at then: the width of a window, a scale of attention.
    """
    from personavec.model.engine.hf import try_forward

    name = loaded.identity.name
    if loaded.context < 2:
        raise ModelError(
            f"model '{name}' has a context of {loaded.context} tokens by its config.json; correct "
            "max_position_embeddings there"
        )
    try:
        try_forward(loaded)
    except _REFUSALS as error:
        raise ModelError(
            f"model '{name}' was loaded and cannot read two tokens ({_first_line(error)}); "
            "something in its config.json is wrong, or the device lacks what it needs"
        ) from error


def weights_of(name: str) -> str | None:
    """The `weights` of a model that is not loaded, by its name; None where nothing tells them.

    Of an adapter those of the adapter alone. Raises ModelError for files that cannot be read.
    """
    from transformers import AutoConfig

    source = embedded_gguf() if name == EMBEDDED else Path(name)
    if source.exists():
        return hash_of_files(source)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except _REFUSALS:
        return None  # loading it will say why
    return getattr(config, "_commit_hash", None)


def _weights(name: str, model: Any, model_args: Mapping[str, Any]) -> str | None:
    """What the files that a model was just loaded from hold; None where only memory tells."""
    source = embedded_gguf() if name == EMBEDDED else Path(name)
    if source.exists():
        return hash_of_files(source, subfolder=str(model_args.get("subfolder") or ""))
    return getattr(model.config, "_commit_hash", None)


#: What from_pretrained raises is as manifold as what it is given: a missing package or device
#: (an AssertionError in torch), an argument it does not know, files that are damaged.
_REFUSALS = (Exception,)


_LOAD_IT_YOURSELF = "load the model yourself and pass it to wrap_model()"


def loading_error(what: str, error: Exception, remedy: str) -> ModelError:
    """One line for what transformers raised; code that a folder brings has its own."""
    if "trust_remote_code" in str(error):
        return own_code(what)
    return ModelError(f"{what} could not be loaded ({_first_line(error)}); {remedy}")


def own_code(what: str) -> ModelError:
    return ModelError(
        f"{what} brings code of its own, which is not run; use one whose architecture and "
        f"tokenizer transformers has, or {_LOAD_IT_YOURSELF}"
    )


def _on_device(model: Any, device: str) -> Any:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"the model cannot be moved to --device {device} ({_first_line(error)}); use cpu, or "
            "a device that this installation of torch can use"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _from_pretrained(
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
    except _REFUSALS as error:
        shown = f" with {', '.join(f'{k}={v}' for k, v in model_args.items())}"
        raise loading_error(
            f"model '{name}'{shown if model_args else ''}",
            error,
            f"use '{EMBEDDED}', a Hugging Face id, a local folder or a .gguf file"
            + (", and check each --model-arg" if model_args else ""),
        ) from error


#: What says where on the hub, and in which version, files lie.
_WHERE = ("revision", "token", "cache_dir", "local_files_only", "subfolder")


#: Far above any model's.
_MOST_LAYERS = 10_000


def _model_class(source: str, model_args: Mapping[str, Any]) -> Any:
    """The class to load with: image-text checkpoints that are no causal ones have their own."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    where = {key: model_args[key] for key in _WHERE if key in model_args}
    config = AutoConfig.from_pretrained(source, **where, trust_remote_code=False)
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    counts = [getattr(part, "num_hidden_layers", 0) for part in parts]
    layers = max((count for count in counts if isinstance(count, int)), default=0)
    if layers > _MOST_LAYERS:
        # The layers are made before the weights are looked at, until memory ends.
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


def _load_adapter(
    folder: str,
    dtype: str | None,
    device: str | None,
    model_args: dict[str, Any],
    template_args: dict[str, Any],
) -> LoadedModel:
    """The base model that a LoRA adapter names, with the adapter on it."""
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
    return wrap_model(
        apply_adapter(base.model, folder, base_name=base.identity.name),
        adapter_tokenizer(folder, base),
        name=folder,
        declared_base=base.identity.name,
        template_args=template_args,
        arguments=model_args,
        weights=adapted_weights(base.identity, folder),
    )


def adapted_weights(base: ModelIdentity, folder: str) -> str:
    """The weights of a base model with the adapter in a folder on it."""
    return combined([str(base.weights), hash_of_files(Path(folder))])


def wrap_model(
    model: Any,
    tokenizer: Any,
    *,
    name: str | None = None,
    revision: str | None = None,
    declared_base: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    weights: str | None = None,
) -> LoadedModel:
    """A LoadedModel from a transformers model and tokenizer that are already in memory.

    Results and caches know it by its name and by `weights`, a fingerprint of its parameters as
    they are now unless given: wrap it anew after training it.
    """
    bound_kernel_caches()
    model.eval()
    blocks = find_blocks(model)
    chat_format = ChatFormat(tokenizer, template_args)
    identity = ModelIdentity(
        name=name or model.config.name_or_path or type(model).__name__,
        revision=revision or getattr(model.config, "_commit_hash", None),
        dtype=str(model.get_input_embeddings().weight.dtype).removeprefix("torch."),
        n_layers=blocks.n_layers,
        hidden_size=blocks.hidden_size,
        template_hash=chat_format.template_hash,
        declared_base=declared_base,
        arguments={
            **(arguments or {}),
            # A date given is a date written: what is resumed with it is the same run.
            **{key: value for key, value in (template_args or {}).items() if key != "today"},
        },
        today=chat_format.today,
        weights=weights or hash_in_memory(model),
    )
    return LoadedModel(model=model, tokenizer=tokenizer, chat=chat_format, identity=identity)
