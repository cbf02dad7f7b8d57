"""Which cached blocks of keys and values a request may share, under vLLM's prefix caching.

vLLM names each full block of a request by a hash of its tokens and of the block before. The note of
a request (`vllm_note`) has a salt and the position from which it holds: blocks before it are named
as anyone's, and shared; the one that contains it, and all after it, are named with the salt too. So
a prompt that is steered from its last token on shares what lies before, and what is steered is
reused only under the same steering.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

#: Gives the names of those full blocks of a request that have none yet.
Hasher = Callable[[Any], list[bytes]]


def salt_of(
    prompt: int,
    additions: Sequence[tuple[int, Tensor, str]],
    caps: Sequence[tuple[int, Tensor, float, str]],
) -> str:
    """A hash of all that acts on a request whose prompt has that many tokens.

    `additions` are [layer, vector, positions], `caps` [layer, unit, ceiling, positions]. The
    prompt's length is part of it, since positions are counted from there.
    """
    digest = hashlib.blake2b(digest_size=16)
    for layer, vector, *rest in (*additions, *caps):
        digest.update(json.dumps([prompt, layer, len(vector), *rest]).encode())
        digest.update(vector.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def salted(hasher: Hasher, first: int, salt: str) -> Hasher:
    """`hasher` with the salt in the names of a request's blocks from the `first` on.

    Each name depends on the one before, so it is enough that block `first` sees another name there.
    With `first` 0 no block is before it: vLLM's own `cache_salt` does that.
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
    """Which blocks at each prompt's beginning other prompts begin with too, as numbers.

    A prompt comes with the position from which it is salted; blocks of `block` tokens count as far
    as they lie before it. At most `room` numbers are given out. A prompt that would need more gets
    None, and must not be read from the cache.
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
