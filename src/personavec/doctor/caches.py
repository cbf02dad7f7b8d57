"""Folders that fill by themselves, with their sizes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from personavec.doctor.privacy import private
from personavec.doctor.results import Cache
from personavec.runs import cache_folder

#: What each cache holds; all of it is made or fetched again when it is needed.
HOLDS = {
    "personavec": "converted weights, endpoints' answers, readings",
    "models": "models from the Hugging Face hub",
    "datasets": "datasets from the Hugging Face hub",
}
#: Longest time for counting one cache; a larger one is said to be at least as large.
SECONDS = 0.5


def caches() -> list[Cache]:
    """The caches of this package and of Hugging Face, where models and datasets are kept."""
    own = os.environ.get
    base = Path(own("XDG_CACHE_HOME") or Path.home() / ".cache")
    hugging_face = Path(own("HF_HOME") or base / "huggingface").expanduser()
    hub = own("HF_HUB_CACHE") or own("HUGGINGFACE_HUB_CACHE") or hugging_face / "hub"
    datasets = own("HF_DATASETS_CACHE") or hugging_face / "datasets"
    folders = {"personavec": cache_folder(), "models": Path(hub), "datasets": Path(datasets)}
    return [_cache(name, folder.expanduser()) for name, folder in folders.items()]


def converted(gguf: Path) -> bool:
    """Whether the cache holds a conversion of a GGUF file of this name."""
    return any((cache_folder() / "models").glob(f"{gguf.stem}-*"))


def _cache(name: str, folder: Path) -> Cache:
    if not folder.is_dir():
        return Cache(name, private(folder), None, whole=True)
    total, until = 0, time.monotonic() + SECONDS
    for size in sizes(folder):
        total += size
        if time.monotonic() > until:
            return Cache(name, private(folder), total, whole=False)
    return Cache(name, private(folder), total, whole=True)


def sizes(folder: Path) -> Iterator[int]:
    """The bytes of every file below a folder; links are not followed."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from sizes(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            try:
                yield entry.stat(follow_symlinks=False).st_size
            except OSError:  # It has gone meanwhile.
                continue
