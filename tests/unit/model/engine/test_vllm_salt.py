"""Which cached blocks requests share: vLLM's naming of blocks, redone in a few lines."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from personavec.model import Action, Cap, Steering
from personavec.model.engine.vllm_note import RequestNote, SteeringTable, note_of
from personavec.model.engine.vllm_salt import salted, shared_beginnings

BLOCK, HIDDEN = 4, 8


@dataclass
class Asked:
    """A request of vLLM's, as far as blocks are named."""

    tokens: list[int]
    cache_salt: str = ""
    block_hashes: list[bytes] = field(default_factory=list)


def named(request: Asked) -> list[bytes]:
    """As vLLM does: each full block by its tokens and the name before."""
    names = list(request.block_hashes)
    have = len(names)
    for start in range(have * BLOCK, len(request.tokens) - BLOCK + 1, BLOCK):
        before = names[-1] if names else request.cache_salt.encode()
        tokens = str(request.tokens[start : start + BLOCK]).encode()
        names.append(hashlib.sha256(before + tokens).digest())
    return names[have:]


def names(tokens: Sequence[int], first: int, salt: str, steps: Sequence[int]) -> list[bytes]:
    """Names of a request that has its tokens in steps."""
    request, hasher = Asked([]), salted(named, first, salt)
    done = 0
    for step in (*steps, len(tokens)):
        request.tokens += tokens[done : max(done, step)]
        done = max(done, step)
        request.block_hashes.extend(hasher(request))
    return request.block_hashes


@pytest.mark.parametrize("first", [1, 2, 5])
def test_blocks_are_shared_up_to_the_salted_one(first: int) -> None:
    """Later ones by requests of the same salt, however many tokens come at a time."""
    tokens = list(range(22))
    plain = Asked(tokens)
    plain.block_hashes = named(plain)
    one = names(tokens, first, "a", [])
    other = names(tokens, first, "b", [])
    assert one[:first] == other[:first] == plain.block_hashes[:first]
    assert len(one) == 5
    assert not {*one[first:]} & {*other[first:], *plain.block_hashes}
    rng = random.Random(first)
    for _ in range(20):
        steps = sorted(rng.sample(range(22), 3))
        assert names(tokens, first, "a", steps) == one
    changed = names([*tokens[:3], 99, *tokens[4:]], first, "a", [])
    assert not {*changed} & {*one}


def note(
    actions: tuple[Action, ...], prompt: int = 10, *, apart: bool = False, **more: Any
) -> RequestNote:
    table = SteeringTable(6, HIDDEN)
    table.steer((Steering(1, torch.arange(8.0), 3.0),))  # so that rows differ between tables
    return note_of("r", prompt, actions, table, own_tensors=apart, **more)


def test_what_acts_decides_what_is_shared() -> None:
    """And where, and how strongly; not which table it is in, nor an addition of nothing."""
    v, w = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(0))
    ways: list[tuple[Action, ...]] = [
        (Steering(2, v, 1.0),),
        (Steering(2, v, 2.0),),
        (Steering(3, v, 1.0),),
        (Steering(2, w, 1.0),),
        (Steering(2, v, 1.0, "all"),),
        (Steering(2, v, 1.0, "prompt"),),
        (Steering(2, v, 1.0), Steering(3, w, 1.0)),
        (Cap(2, v / v.norm(), 1.0),),
        (Cap(2, v / v.norm(), 2.0),),
        (Cap(2, v / v.norm(), 1.0, "all"),),
        (Steering(2, v, 1.0), Cap(2, v / v.norm(), 1.0)),
    ]
    salts = [note(way)["salt"] for way in ways]
    assert len({*salts, ""}) == len(ways) + 1
    assert [note(way, apart=True)["salt"] for way in ways] == salts
    assert note((Steering(2, v.clone(), 1.0),))["salt"] == salts[0]
    assert note(ways[0], 11)["salt"] != salts[0]  # steered from another position on
    assert note(())["salt"] == note((Steering(2, v, 0.0),))["salt"] == ""


def test_the_salt_holds_from_the_first_token_that_is_acted_on() -> None:
    v = torch.ones(HIDDEN)
    assert note((Steering(2, v, 1.0),))["salted_from"] == 9
    assert note((Steering(2, v, 1.0), Cap(2, v, 1.0, "prompt")))["salted_from"] == 0
    assert note((Steering(2, v, 1.0, "all"),))["salted_from"] == 0
    # A captured response is shared with no one.
    captured = note((), response=[10, 20])
    assert (captured["salt"], captured["salted_from"]) == ("r", 10)


def test_shared_beginnings_are_the_blocks_that_two_prompts_have() -> None:
    a, b, c = list(range(8)), list(range(20, 28)), list(range(40, 44))
    prompts = [
        ([*a, *b], 16),
        ([*a, *c, 1], 13),
        ([*a, *b[:4], 5], 13),
        ([*b, *a], 16),  # the same blocks, but not at the beginning
        ([*a, *b], 11),  # acted on from within its third block
        (a, 0),
    ]
    assert shared_beginnings(prompts, BLOCK, 10) == [[0, 1, 2], [0, 1], [0, 1, 2], [], [0, 1], []]


def test_without_room_a_prompt_is_refused_with_all_that_needs_its_blocks() -> None:
    """Nothing that it computes is counted, so none of these may take it from the cache."""
    a, b, c = [1] * 4, [2] * 4, [3] * 4
    prompts = [(p, len(p)) for p in ([*a, *b], [*a, *b], [*c, *b, *a], [*c, *b, *a], c, a)]
    assert shared_beginnings(prompts, BLOCK, 2) == [[0, 1], [0, 1], None, None, None, [0]]
    assert shared_beginnings(prompts, BLOCK, 1) == [None, None, None, None, None, None]
    assert shared_beginnings(prompts[4:], BLOCK, 0) == [[], []]
