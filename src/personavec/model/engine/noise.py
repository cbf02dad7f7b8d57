"""Sampling noise, by a counter-based hash of (seed, noise key, step, counter).

Every counter, a token or a group of tokens, gets 32 bits, computed where the logits are. They are
the same on every device and in every batch, so that runs that share noise can be compared in pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

#: 2^32 over the golden ratio, and the two factors of the "lowbias32" integer hash (C. Wellons).
_GOLDEN, _FACTORS = 0x9E3779B9 - 2**32, (0x7FEB352D, 0x846CA68B - 2**32)
#: The largest float32 below 1.
_BELOW_ONE = 1 - 2.0**-24


def row_keys(seeds: Sequence[tuple[int, str, int]]) -> Int[Tensor, "row 2"]:
    """Two 32-bit keys for each row's (seed, noise key, step), on the CPU."""
    digests = [
        hashlib.blake2b("\0".join(map(str, seed)).encode(), digest_size=8).digest()
        for seed in seeds
    ]
    return torch.from_numpy(np.frombuffer(b"".join(digests), "<i4").reshape(-1, 2).copy())


def uniform_bits(
    keys: Int[Tensor, "row 2"], counters: Int[Tensor, "#row n"]
) -> Int[Tensor, "row n"]:
    """32 uniform bits for every counter, as signed integers; different ones in a row differ."""
    bits = _hashed(counters.int()) ^ keys[:, :1]
    bits.mul_(_FACTORS[0])
    bits.bitwise_xor_(_shifted(bits, 15))
    bits.add_(keys[:, 1:]).mul_(_FACTORS[1])
    return bits.bitwise_xor_(_shifted(bits, 16))


def gumbel(bits: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Gumbel noise of 32 uniform bits each: -log(-log(1 - w)), w = (bits + 1/2) / 2^32.

    Large noise comes from small w, which float32 resolves down to 2^-33.
    """
    w = ((bits.long() & 0xFFFFFFFF).float() + 0.5) * 2.0**-32
    return -torch.log(-torch.log1p(-w.clamp(max=_BELOW_ONE)))


def _hashed(counters: Int[Tensor, "row n"]) -> Int[Tensor, "row n"]:
    """A hash of every counter; the rows' keys are mixed in later."""
    bits = counters * _GOLDEN
    bits = (bits ^ _shifted(bits, 16)) * _FACTORS[0]
    bits = (bits ^ _shifted(bits, 15)) * _FACTORS[1]
    return bits ^ _shifted(bits, 16)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Shifted right, with zeros from the left."""
    return (bits >> places).bitwise_and_(2 ** (32 - places) - 1)
