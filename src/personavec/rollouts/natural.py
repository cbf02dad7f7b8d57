"""The model's own responses to a dataset's prompts, generated once and kept.

A prompt's natural response is kept with its mean activation at every layer, so that a new vector
needs no generation. The response is greedy, or the mean is taken over several sampled ones, which
is a lower-variance estimate of what the model would say. Each generated batch is one file, written
aside and renamed, so processes can share a folder; at worst two of them do the same work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from personavec.errors import DataError
from personavec.model import LoadedModel
from personavec.model.engine import Engine, Generation, Request, Sampling, TransformersEngine
from personavec.progress import Bar
from personavec.runs import atomic_write, remove_leftovers, why_invalid

_FORMAT = 1
_DAY = 24 * 3600.0
#: Of sampled responses.
_TEMPERATURE = 0.7


@dataclass(frozen=True)
class Natural:
    """A prompt's natural response as it is kept; of several, the first."""

    prompt: str
    """The key of its prompt: a hash of the token ids."""
    response: str
    n_tokens: int
    finished: bool
    """False where the length limit cut it off."""


def prompt_key(prompt_ids: Sequence[int]) -> str:
    """The key of a prompt: a hash of its token ids."""
    data = np.asarray(prompt_ids, dtype=np.int32).tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Naturals:
    """The natural responses of one model, generated on demand.

    One response is greedy; several (`samples`) are sampled at temperature 0.7. `folder` may hold
    those of several models and settings, each in a folder of its own.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        folder: Path,
        *,
        max_tokens: int = 64,
        samples: int = 1,
        batch_tokens: int = 16384,
        engine: Engine | None = None,
    ):
        self.loaded, self.max_tokens, self.samples = loaded, max_tokens, samples
        self.engine = engine or TransformersEngine(loaded, batch_tokens)
        about = {
            "model": loaded.identity.as_dict(),
            "max_tokens": max_tokens,
            "format": _FORMAT,
            **({"samples": samples, "temperature": _TEMPERATURE} if samples > 1 else {}),
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
        name = Path(loaded.identity.name).name
        self.folder = folder / f"{name}-{max_tokens}-{digest.hexdigest()[:12]}"
        self._found: dict[str, tuple[Path, int]] = {}
        self._read: set[Path] = set()
        # Several processes may share the folder, with no lock between them.
        remove_leftovers(self.folder, older_than=_DAY)
        self._refresh()

    @property
    def kept(self) -> int:
        """How many responses the folder holds."""
        return len(self._found)

    def means(
        self, prompts: Sequence[tuple[int, ...]], layers: Sequence[int], bar: Bar | None = None
    ) -> dict[str, Tensor | None]:
        """By prompt key: the mean activation [layer, hidden] of its natural response.

        For several responses, the mean of their means. None where there is none: the model ended
        its turn at once, its numbers overflowed, or the prompt leaves no room in the context.
        Missing responses are generated and kept, unless they overflowed; `bar` counts them.
        """
        wanted = {prompt_key(prompt): prompt for prompt in prompts}
        if wanted.keys() - self._found.keys():
            self._refresh()
        missing = [key for key in wanted if key not in self._found]
        if bar is not None:
            bar.advance(len(wanted) - len(missing))
        room = self.loaded.context - self.max_tokens
        requests = [
            Request(f"{key}/{sample}", wanted[key])
            for key in missing
            if len(wanted[key]) <= room
            for sample in range(self.samples)
        ]
        sampling = Sampling(self.max_tokens, _TEMPERATURE if self.samples > 1 else 0.0)
        begun: dict[str, list[Generation]] = {}
        for batch in self.engine.generate(requests, sampling, capture=True):
            for response in batch:
                begun.setdefault(response.id.partition("/")[0], []).append(response)
            whole = [key for key, responses in begun.items() if len(responses) == self.samples]
            ready = {key: begun.pop(key) for key in whole}
            self._keep({k: own for k, own in ready.items() if not any(g.failed for g in own)})
            if bar is not None:
                bar.advance(len(whole))
        return self._load(list(wanted), list(layers))

    def response(self, prompt: Sequence[int]) -> Natural | None:
        """The natural response that is kept for a prompt, if there is one."""
        place = self._found.get(prompt_key(prompt))
        if place is None:
            return None
        path, row = place
        with safe_open(path, "pt") as file:
            return _responses(path, file)[row]

    def _keep(self, responses: Mapping[str, Sequence[Generation]]) -> None:
        """Write all responses to some prompts, by the prompts' keys, as one file."""
        if not responses:
            return
        records = []
        for key, own in responses.items():
            first = min(own, key=lambda response: response.id)
            text = self.loaded.chat.decode(first.response_ids)
            records.append(asdict(Natural(key, text, len(first.response_ids), first.finished)))
        name = hashlib.blake2b("".join(responses).encode(), digest_size=12).hexdigest()
        means = torch.stack([self._mean(own) for own in responses.values()])
        data = save({"means": means}, {"responses": json.dumps(records)})
        atomic_write(self.folder / f"{name}.safetensors", data)
        self._refresh()

    def _mean(self, responses: Sequence[Generation]) -> Tensor:
        """[layer, hidden]: the mean over responses of each one's mean; NaN where all are empty."""
        means = [r.activations[0].float() for r in responses if r.activations is not None]
        if not means:
            identity = self.loaded.identity
            return torch.full((identity.n_layers + 1, identity.hidden_size), torch.nan)
        return torch.stack(means).mean(0)

    def _refresh(self) -> None:
        """Index new files, those of other processes included."""
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            if path in self._read:
                continue
            for row, response in enumerate(_responses(path, _opened(path))):
                self._found.setdefault(response.prompt, (path, row))
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


def _responses(path: Path, file: Any) -> list[Natural]:
    """The responses in a file, in the order of its means."""
    try:
        found = _RESPONSES.validate_json((file.metadata() or {}).get("responses", ""))
        if file.get_slice("means").get_shape()[0] != len(found):
            raise ValueError("it holds more means than responses, or fewer")
        return found
    except (ValueError, SafetensorError) as error:
        raise _damage(path, error) from error


_RESPONSES = TypeAdapter(list[Natural])


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise _damage(path, error) from error


def _damage(path: Path, error: Exception) -> DataError:
    why = why_invalid(error) if isinstance(error, ValidationError) else error
    return DataError(f"{path} is damaged ({why}); delete it, and its responses are generated again")
