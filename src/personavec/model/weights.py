"""Which weights a model has: a hash of its files, or of what is in memory.

A name is not enough: a folder may later hold a new training's weights. Files are hashed once; the
hash is kept in the cache folder and holds as long as path, inode, size and times of the file do.
Knows nothing of what the files mean.
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

#: What decides a model's answers, of the files in its folder. Cards, logs and the state of a
#: trainer do not.
_DECIDES = (
    *("*.safetensors", "*.bin", "*.gguf", "*.index.json", "config.json", "adapter_config.json"),
    *("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab*", "merges.txt", "*.model", "*.tiktoken", "*.jinja", "chat_template*.json"),
    *("*processor_config.json", "additional_chat_templates/*.jinja"),
)
_NOT = ("training_args.bin", "optimizer.bin", "scheduler.bin")
_CHUNK = 1 << 24
#: Reading more than this takes seconds, and its progress is shown.
_LARGE = 1 << 32
#: A file younger than this, in seconds, may change again without a new time stamp.
_SETTLED = 2.0
#: Values of every tensor in memory that are hashed as they are; all others count in a sum.
_SAMPLED = 4096
#: The fields of a configuration that only say where it came from.
_NO_SETTINGS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


def hash_of_files(source: Path, *, subfolder: str = "") -> str:
    """A hash of the files that decide a model's answers: one file, or those of a folder.

    Names count within the folder, not where it lies. Raises ModelError for files that cannot be
    read.
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
            f"the files of {source} cannot be read ({error.strerror or error}); check their rights"
        ) from error
    return combined(part for pair in zip(files, hashes, strict=True) for part in pair)


def combined(parts: Iterable[str]) -> str:
    """One hash of several texts, in their order."""
    return hashlib.blake2b(json.dumps(list(parts)).encode(), digest_size=16).hexdigest()


def hash_in_memory(network: Any) -> str:
    """A fingerprint of a network that was made in memory: its settings and its parameters.

    Of every tensor some thousand values are hashed as they are, and all bits enter a sum: exact on
    every device, as cheap as one reading of the weights, and any training changes it. What lies on
    no device, as offloaded weights do, counts by its name and shape alone.
    """
    digest = hashlib.blake2b(digest_size=16)
    for config in (network.config, getattr(network, "generation_config", None)):
        known = {} if config is None else config.to_dict()
        told = {name: value for name, value in known.items() if name not in _NO_SETTINGS}
        digest.update(json.dumps(told, sort_keys=True, default=lambda x: type(x).__name__).encode())
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


# Hashes of files, kept


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
        # Without a cache folder the file is read again the next time.
        with suppress(StorageError):
            record = {"file": before, "hash": digest.hexdigest()}
            atomic_write(_record_of(path), json.dumps(record))
    return digest.hexdigest()


def _kept(path: Path) -> str | None:
    """The hash that is kept of a file, if it is still the same one."""
    try:
        found = parse_json(_record_of(path).read_bytes())
        return str(found["hash"]) if found["file"] == _stamp(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _record_of(path: Path) -> Path:
    return cache_folder() / "hashes" / f"{combined([str(path.resolve())])}.json"


def _stamp(path: Path) -> list[Any]:
    """What shows that a file is the same one: even a copy with the same time has another inode."""
    stat = path.stat()
    return [str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
