"""Which blocks of vLLM's prefix cache a request may share.

vLLM names each full block by a hash of its tokens and of the block before. The note of a request
(`vllm_note`) has a salt, and the position from which it applies. Blocks before that position get
their usual names, and are shared with all requests. The block that contains it, and later ones, get
names that depend on the salt. So a request that is steered from its last prompt token on shares the
blocks before, and steered blocks are reused only under the same steering.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

#: Returns the names of a request's new full blocks.
Hasher = Callable[[Any], list[bytes]]


def salt_of(
    prompt: int,
    additions: Sequence[tuple[int, Tensor, str]],
    caps: Sequence[tuple[int, Tensor, float, str]],
) -> str:
    """A hash of all additions and caps on a request whose prompt has `prompt` tokens.

    `additions` are (layer, vector, positions), `caps` (layer, unit, ceiling, positions). The length
    of the prompt counts, because positions depend on it.
    """
    digest = hashlib.blake2b(digest_size=16)
    for layer, vector, *rest in (*additions, *caps):
        digest.update(json.dumps([prompt, layer, len(vector), *rest]).encode())
        digest.update(vector.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def salted(hasher: Hasher, first: int, salt: str) -> Hasher:
    """A hasher that names a request's blocks with the salt from block `first` on, at least 1.

    Each name depends on the one before, so only the name that block `first` follows is salted.
    vLLM's `cache_salt` does the same for block 0.
    """

    def names(request: Any) -> list[bytes]:
        known = list(request.block_hashes)
        found = hasher(request)
        if len(known) > first or len(known) + len(found) <= first:
            return found
        plain = [*known, *found][:first]
        parent = hashlib.sha256(salt.encode() + b"\0" + plain[-1]).digest()
        request.block_hashes[:] = [*plain[:-1], parent]
        try:
            return plain[len(known) :] + hasher(request)
        finally:
            request.block_hashes[:] = known

    return names


def shared_beginnings(
    prompts: Sequence[tuple[Sequence[int], int]], block: int, room: int
) -> list[list[int] | None]:
    """For each prompt, the numbers of its first blocks that other prompts also begin with.

    A prompt is (ids, position from which its salt applies); only blocks of `block` tokens before
    that position count. At most `room` blocks get numbers. A prompt that needs more gets None, and
    must not use the cache.
    """
    chains: list[list[int]] = []
    known: dict[tuple[int, tuple[int, ...]], int] = {}
    for ids, salted_from in prompts:
        chain, parent = [], -1
        for start in range(0, salted_from - block + 1, block):
            key = parent, tuple(ids[start : start + block])
            parent = known.setdefault(key, len(known))
            chain.append(parent)
        chains.append(chain)
    counts = Counter(number for chain in chains for number in chain)
    given: dict[int, int] = {}
    refused: set[int] = set()
    out: list[list[int] | None] = []
    for chain in chains:
        shared = [number for number in chain if counts[number] > 1]
        new = [number for number in shared if number not in given]
        if len(given) + len(new) > room or not refused.isdisjoint(new):
            refused.update(new)
            out.append(None)
            continue
        for number in new:
            given[number] = len(given)
        out.append([given[number] for number in shared])
    return out
