"""The model's own greedy responses to a dataset's prompts, generated once and kept.

A prompt's natural response is kept with its mean activation at every layer, so that a vector made
later costs no generation. Each generated batch is one file, written whole: processes can share a
folder, and the worst that two of them can do is the same work twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from personavec.errors import DataError
from personavec.model.engine.base import Engine, Generation, Request, Sampling
from personavec.model.engine.hf import TransformersEngine
from personavec.model.loading import LoadedModel
from personavec.progress import Bar
from personavec.runs import atomic_write

_FORMAT = 1


@dataclass(frozen=True)
class Natural:
    """One natural response as it is kept."""

    prompt: str
    """The key of its prompt: a hash of the token ids."""
    response: str
    n_tokens: int
    finished: bool
    """False where the length limit cut it off."""


def prompt_key(prompt_ids: Sequence[int]) -> str:
    """What a prompt is known by."""
    data = np.asarray(prompt_ids, dtype=np.int32).tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Naturals:
    """The natural responses of one model, generated as they are asked for.

    `folder` may hold those of several models and limits; each has its own folder in it.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        folder: Path,
        *,
        max_tokens: int = 64,
        batch_tokens: int = 16384,
        engine: Engine | None = None,
    ):
        self.loaded, self.max_tokens = loaded, max_tokens
        self.engine = engine or TransformersEngine(loaded, batch_tokens)
        about = {
            "model": loaded.identity.as_dict(),
            "max_tokens": max_tokens,
            "format": _FORMAT,
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
        name = Path(loaded.identity.name).name
        self.folder = folder / f"{name}-{max_tokens}-{digest.hexdigest()[:12]}"
        self._found: dict[str, tuple[Path, int]] = {}
        self._read: set[Path] = set()
        self._refresh()

    @property
    def kept(self) -> int:
        """How many responses the folder holds."""
        return len(self._found)

    def means(
        self, prompts: Sequence[tuple[int, ...]], layers: Sequence[int], bar: Bar | None = None
    ) -> dict[str, Tensor | None]:
        """By prompt key: the mean activation [layer, hidden] of its natural response.

        None where there is no response: the model ended its turn at once, or the prompt leaves
        no room in the context. What is missing is generated and kept; `bar` counts it.
        """
        wanted = {prompt_key(prompt): prompt for prompt in prompts}
        if wanted.keys() - self._found.keys():
            self._refresh()
        missing = [key for key in wanted if key not in self._found]
        if bar is not None:
            bar.advance(len(wanted) - len(missing))
        room = self.loaded.context - self.max_tokens
        requests = [Request(key, wanted[key]) for key in missing if len(wanted[key]) <= room]
        sampling = Sampling(self.max_tokens, temperature=0.0)
        for batch in self.engine.generate(requests, sampling, capture=True):
            self._keep(batch)
            if bar is not None:
                bar.advance(len(batch))
        return self._load(list(wanted), list(layers))

    def response(self, prompt: Sequence[int]) -> Natural | None:
        """The natural response that is kept for a prompt, if there is one."""
        place = self._found.get(prompt_key(prompt))
        if place is None:
            return None
        path, row = place
        with safe_open(path, "pt") as file:
            return Natural(**json.loads(file.metadata()["responses"])[row])

    def _keep(self, batch: Sequence[Generation]) -> None:
        shape = (self.loaded.identity.n_layers + 1, self.loaded.identity.hidden_size)
        means = [
            torch.full(shape, torch.nan) if g.activations is None else g.activations[0]
            for g in batch
        ]
        records = [
            Natural(
                g.id, self.loaded.chat.decode(g.response_ids), len(g.response_ids), g.finished
            ).__dict__
            for g in batch
        ]
        name = hashlib.blake2b("".join(g.id for g in batch).encode(), digest_size=12).hexdigest()
        data = save({"means": torch.stack(means)}, {"responses": json.dumps(records)})
        atomic_write(self.folder / f"{name}.safetensors", data)
        self._refresh()

    def _refresh(self) -> None:
        """Take in files that are new, another process's among them."""
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            if path in self._read:
                continue
            for row, record in enumerate(json.loads(_opened(path).metadata()["responses"])):
                self._found.setdefault(record["prompt"], (path, row))
            self._read.add(path)

    def _load(self, keys: Sequence[str], layers: list[int]) -> dict[str, Tensor | None]:
        by_file: dict[Path, list[str]] = {}
        for key in keys:
            if key in self._found:
                by_file.setdefault(self._found[key][0], []).append(key)
        out: dict[str, Tensor | None] = dict.fromkeys(keys)
        for path, own in by_file.items():
            rows = _opened(path).get_slice("means")
            for key in own:
                means = rows[self._found[key][1]][layers]
                out[key] = None if means.isnan().any() else means
        return out


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path} is damaged ({error}); delete it, and its responses are generated again"
        ) from error
