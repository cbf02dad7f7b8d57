"""Convert GGUF files, such as the embedded model's, once into safetensors snapshots."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from personavec.errors import ModelError
from personavec.model.weights import hash_of_files
from personavec.runs import cache_folder, disk_full_error, lock

_SNAPSHOT_FORMAT = 2


def snapshot_of_gguf(gguf: Path) -> Path:
    """The folder with a bf16 safetensors snapshot of a GGUF file, converted on first use.

    Reading a GGUF file takes up to 20 s, reading the snapshot a fraction of a second. Raises
    ModelError if the file is missing or cannot be converted.
    """
    if not gguf.is_file():
        raise ModelError(f"{gguf}: no such GGUF file")
    models = cache_folder() / "models"
    folder = models / f"{gguf.stem}-{hash_of_files(gguf)}-{_SNAPSHOT_FORMAT}"
    if not folder.is_dir():
        # If another process is converting the same file, this one waits for it.
        with lock(models / f".{folder.name}", wait=True):
            if not folder.is_dir():
                _convert(gguf, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    """Write the snapshot to a scratch folder and rename it. Raises ModelError."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    scratch = folder.with_name(f".{folder.name}") / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        source: dict[str, Any] = {
            "pretrained_model_name_or_path": str(gguf.parent),
            "gguf_file": gguf.name,
            "trust_remote_code": False,
        }
        model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        model = model.to(torch.bfloat16)
        # The weights are plain tensors now, but transformers refuses to save a model that is still
        # marked as GGUF-quantised.
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(scratch)
        AutoTokenizer.from_pretrained(**source).save_pretrained(scratch)
        scratch.rename(folder)
    except Exception as error:  # a broken file makes the readers raise almost anything
        if full := disk_full_error(folder, error):
            raise full from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{gguf}: could not be converted ({reason}); download it again") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
