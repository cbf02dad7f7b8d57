"""The note that goes with a request to vLLM's workers: how to steer it, and what to read.

It consists of plain numbers and safetensors, so that nothing is unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from personavec.errors import UsageError
from personavec.model import Action, Cap, Steering
from personavec.model.engine.vllm_salt import salt_of

#: The key of a request's note in its `extra_args`.
NOTE = "personavec"


class RequestNote(TypedDict):
    """The note of one request."""

    id: str
    """The name under which its results are fetched."""
    prompt: int
    """Number of prompt tokens."""
    steer: list[list[Any]]
    """[layer, row of the table, positions] of each addition."""
    cap: list[list[Any]]
    """[layer, row of `OwnTensors.units`, ceiling, positions] of each cap."""
    own: bytes | None
    """This request's packed `OwnTensors`. None if `steer` refers to rows of the shared table."""
    response: list[int] | None
    """The positions [start, stop) of the response to capture; None without capture."""
    project: int | None
    """The first position to project; all later ones are too. None without projection."""
    salt: str
    """Part of the names of its cached blocks (`vllm_salt`); empty for none."""
    salted_from: int
    """The position from which the salt applies."""
    beginning: list[int]
    """Numbers of the prompt's first blocks that may be cached although the prompt is captured."""


class OwnTensors(NamedTuple):
    """Vectors that steer or cap only one request."""

    table: Float[Tensor, "row hidden"]
    """Rows for `RequestNote.steer`, already multiplied by their coefficients."""
    units: Float[Tensor, "cap hidden"]
    """Rows for `RequestNote.cap`, with norm 1."""

    def packed(self) -> bytes:
        """The tensors as safetensors."""
        return save(self._asdict())

    @classmethod
    def unpacked(cls, data: bytes) -> OwnTensors:
        """The reverse of `packed`."""
        return cls(**load(data))


class SteeringTable:
    """The steering vectors of requests, each stored once and multiplied by its coefficient."""

    def __init__(self, n_layers: int, hidden: int):
        self.n_layers, self.hidden = n_layers, hidden
        self._rows: list[Tensor] = []
        self._known: dict[tuple[tuple[int, float], ...], int] = {}
        self._directions: list[Tensor] = []  # Kept alive, so that their ids are not reused.

    def steer(self, additions: Sequence[Steering]) -> list[list[Any]]:
        """[layer, row, positions] of additions, summed by layer and positions.

        Raises UsageError for a layer that does not exist.
        """
        places: dict[tuple[int, str], list[Steering]] = {}
        for steering in additions:
            self.check_layer(steering)
            if steering.coefficient:
                places.setdefault((steering.layer, steering.positions), []).append(steering)
        return [[layer, self._row(own), kind] for (layer, kind), own in places.items()]

    def check_layer(self, action: Action) -> None:
        """Raise UsageError for a layer that does not exist."""
        if action.layer > self.n_layers:
            raise UsageError(
                f"layer {action.layer} does not exist: the model has layers 1 to {self.n_layers}"
            )

    def _row(self, steerings: Sequence[Steering]) -> int:
        key = tuple((id(s.direction), s.coefficient) for s in steerings)
        if key not in self._known:
            self._known[key] = len(self._rows)
            self._directions += [s.direction for s in steerings]
            added = [s.coefficient * s.direction.float().cpu() for s in steerings]
            self._rows.append(torch.stack(added).sum(0))
        return self._known[key]

    def salt(self, prompt: int, steer: Sequence[list[Any]], caps: Sequence[Cap]) -> str:
        """The salt of a request with these additions, of this table, and caps."""
        additions = [(layer, self._rows[row], kind) for layer, row, kind in steer]
        capped = [(cap.layer, cap.unit.cpu(), cap.ceiling, cap.positions) for cap in caps]
        return salt_of(prompt, additions, capped)

    def rows(self) -> Float[Tensor, "row hidden"]:
        return torch.stack(self._rows) if self._rows else torch.zeros(0, self.hidden)


def note_of(
    name: str,
    prompt: int,
    actions: Sequence[Action],
    table: SteeringTable,
    *,
    own_tensors: bool = False,
    response: list[int] | None = None,
    project: int | None = None,
    beginning: Sequence[int] = (),
) -> RequestNote:
    """The note of a request whose prompt has `prompt` tokens.

    Additions become rows of the shared `table`. With `own_tensors`, or if there is a cap, the
    request gets its own tensors instead. A captured request shares cached blocks only before its
    response and before the first position that is acted on, since the workers have sums of these.
    Raises UsageError for a layer that does not exist.
    """
    caps = [action for action in actions if isinstance(action, Cap)]
    own_tensors = bool(actions) and (own_tensors or bool(caps))
    own = SteeringTable(table.n_layers, table.hidden) if own_tensors else table
    steer = own.steer([action for action in actions if not isinstance(action, Cap)])
    for cap in caps:
        own.check_layer(cap)
    units = torch.stack([cap.unit.cpu() for cap in caps]) if caps else own.rows()[:0]
    acting = bool(steer or caps)
    salt = name if response is not None else own.salt(prompt, steer, caps) if acting else ""
    return {
        "id": name,
        "prompt": prompt,
        "steer": steer,
        "cap": [[cap.layer, row, cap.ceiling, cap.positions] for row, cap in enumerate(caps)],
        "own": OwnTensors(own.rows(), units).packed() if own_tensors else None,
        "response": response,
        "project": project,
        "salt": salt,
        "salted_from": first_acted(prompt, actions),
        "beginning": list(beginning),
    }


def first_acted(prompt: int, actions: Sequence[Action]) -> int:
    """The first position that any action acts on; the prompt's end if there is none."""
    kinds = {action.positions for action in actions}
    return 0 if kinds - {"response"} else prompt - 1 if kinds else prompt


def request_seed(seed: int, noise_key: str) -> int:
    """The seed of one request's sampling, from the run's seed and its noise key."""
    digest = hashlib.blake2b(f"{seed}\0{noise_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # vLLM's seeds are signed
