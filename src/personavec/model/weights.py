"""Identify a model's weights by a hash of its files, or of its parameters in memory.

A name is not enough, since a folder may later hold other weights. The hash of a file is stored in
the cache folder, and is valid while the file's path, inode, size and times are unchanged.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from personavec.errors import ModelError, StorageError
from personavec.plain import parse_json
from personavec.progress import Bar, Progress
from personavec.runs import atomic_write, cache_folder

#: The files in a model's folder that affect its answers; model cards, logs and the trainer's state
#: do not.
_DECIDES = (
    *("*.safetensors", "*.bin", "*.gguf", "*.index.json", "config.json", "adapter_config.json"),
    *("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab*", "merges.txt", "*.model", "*.tiktoken", "*.jinja", "chat_template*.json"),
    *("*processor_config.json", "additional_chat_templates/*.jinja"),
)
_NOT = ("training_args.bin", "optimizer.bin", "scheduler.bin")
_CHUNK = 1 << 24
#: Reading more bytes than this takes seconds, so progress is shown.
_LARGE = 1 << 32
#: A file that changed less than this many seconds ago may change again within the same time stamp.
_SETTLED = 2.0
#: Number of values of each tensor in memory that are hashed; the others enter only a sum.
_SAMPLED = 4096
#: Fields of a configuration that are not settings but describe its origin.
_NO_SETTINGS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


def hash_of_files(source: Path, *, subfolder: str = "") -> str:
    """Hash the files that affect a model's answers: one file, or those in a folder.

    The hash includes the files' names within the folder, but not the folder's path. Raises
    ModelError for files that cannot be read.
    """
    if source.is_file():
        files = {"": source}
    else:
        places = {source, source / subfolder}
        found = sorted({p for place in places for each in _DECIDES for p in place.glob(each)})
        files = {
            str(path.relative_to(source)): path
            for path in found
            if path.is_file() and path.name not in _NOT
        }
    try:
        missing = {path for path in files.values() if _kept(path) is None}
        total = sum(path.stat().st_size for path in missing)
        progress = Progress(quiet=total < _LARGE)
        with (
            progress.bar("hashing weights, MB", total >> 20) as bar,
            ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool,
        ):
            hashes = list(pool.map(lambda path: _hash_of(path, bar), files.values()))
    except OSError as error:
        raise ModelError(
            f"the files of {source} cannot be read ({error.strerror or error}); check their "
            "permissions"
        ) from error
    return combined(part for pair in zip(files, hashes, strict=True) for part in pair)


def combined(parts: Iterable[str]) -> str:
    """One hash of several texts, in their order."""
    return hashlib.blake2b(json.dumps(list(parts)).encode(), digest_size=16).hexdigest()


def hash_in_memory(network: Any) -> str:
    """A fingerprint of a network in memory, from its settings and parameters.

    Of every tensor a few thousand values are hashed, and all bits enter a sum. The fingerprint is
    the same on every device, needs one pass over the weights, and changes with any training.
    Offloaded weights enter only with their name and shape.
    """
    digest = hashlib.blake2b(digest_size=16)
    for config in (network.config, getattr(network, "generation_config", None)):
        known = {} if config is None else config.to_dict()
        settings = {name: value for name, value in known.items() if name not in _NO_SETTINGS}
        digest.update(
            json.dumps(settings, sort_keys=True, default=lambda x: type(x).__name__).encode()
        )
    for name, tensor in sorted(network.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}".encode())
        if tensor.device.type != "meta" and tensor.numel():
            flat = tensor.detach().contiguous().flatten()
            step = math.ceil(len(flat) / _SAMPLED)
            digest.update(flat[::step].contiguous().view(torch.uint8).cpu().numpy().tobytes())
            digest.update(f"{_sum_of_bits(flat)}".encode())
    return digest.hexdigest()


def _sum_of_bits(flat: torch.Tensor) -> int:
    data = flat.view(torch.uint8)
    words = data.view(torch.int32) if len(data) % 4 == 0 else data
    return sum(int(chunk.sum(dtype=torch.int64)) for chunk in words.split(_CHUNK))


# Stored hashes of files


def _hash_of(path: Path, bar: Bar) -> str:
    if kept := _kept(path):
        return kept
    before = _stamp(path)
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb", buffering=0) as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
            bar.advance(len(chunk) >> 20)
    if _stamp(path) != before:
        raise ModelError(f"{path} changed while it was read; wait until it has been written")
    stat = path.stat()
    if time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED:
        # Without a writable cache folder the file is hashed again next time.
        with suppress(StorageError):
            record = {"file": before, "hash": digest.hexdigest()}
            atomic_write(_record_of(path), json.dumps(record))
    return digest.hexdigest()


def _kept(path: Path) -> str | None:
    """The stored hash of a file, if the file has not changed since."""
    try:
        found = parse_json(_record_of(path).read_bytes())
        return str(found["hash"]) if found["file"] == _stamp(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _record_of(path: Path) -> Path:
    return cache_folder() / "hashes" / f"{combined([str(path.resolve())])}.json"


def _stamp(path: Path) -> list[Any]:
    """What identifies an unchanged file; a copy with the same time stamp has another inode."""
    stat = path.stat()
    return [str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
