"""Every token's projection, against whole hidden states kept by the plain loop."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from personavec import LoadedModel
from personavec.errors import ActivationError
from personavec.model import Directions, project_tokens
from personavec.model.projecting import _stems


def _texts(loaded: LoadedModel, seed: int = 0) -> list[np.ndarray]:
    """Texts of every length; some share a long beginning, one is that beginning."""
    generator = np.random.default_rng(seed)
    n = len(loaded.tokenizer) - 4
    stem = generator.integers(0, n, 40)
    alone = [generator.integers(0, n, length) for length in (1, 3, 17, 50, 50)]
    shared = [np.concatenate([stem, generator.integers(0, n, k)]) for k in (1, 4, 9, 9, 30)]
    texts = [*alone[:2], *shared, *alone[2:], stem]
    return [text.astype(np.int32) for text in texts]


def _directions(loaded: LoadedModel, layers: tuple[int, ...]) -> Directions:
    raw = torch.randn(
        len(layers), loaded.identity.hidden_size, generator=torch.Generator().manual_seed(3)
    )
    return Directions(layers, raw / raw.norm(dim=-1, keepdim=True))


def _plain(loaded: LoadedModel, text: np.ndarray, directions: Directions) -> torch.Tensor:
    """One text alone, all hidden states, hooks of our own for the last layer before its norm."""
    kept: dict[int, torch.Tensor] = {}
    handles = [
        block.register_forward_hook(
            lambda module, args, output, layer=layer: kept.__setitem__(
                layer, (output[0] if isinstance(output, tuple) else output)[0]
            )
        )
        for layer, block in enumerate(loaded.blocks.stack, start=1)
    ]
    with torch.no_grad():
        states = loaded.model(
            input_ids=torch.from_numpy(text.astype(np.int64))[None], output_hidden_states=True
        ).hidden_states
    for handle in handles:
        handle.remove()
    kept[0] = states[0][0]
    return torch.stack(
        [
            kept[layer] @ unit
            for layer, unit in zip(directions.layers, directions.unit, strict=True)
        ],
        dim=-1,
    )


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("budget", [1, 64, 100_000])
def test_projections_equal_the_plain_loop(loaded: LoadedModel, share: bool, budget: int) -> None:
    n = loaded.identity.n_layers
    directions = _directions(loaded, (n - 1, 0, n - 1, 1))
    texts = _texts(loaded)
    found = project_tokens(
        loaded.model, texts, directions, batch_tokens=budget, share_prefixes=share
    )
    for text, own in zip(texts, found, strict=True):
        torch.testing.assert_close(own, _plain(loaded, text, directions), atol=2e-5, rtol=1e-4)


def test_no_text_takes_no_forward(llama: LoadedModel) -> None:
    assert project_tokens(llama.model, [], _directions(llama, (1,))) == []


def test_a_shared_beginning_runs_once(llama: LoadedModel) -> None:
    """Counted at the first block: tokens that go through it."""
    texts = _texts(llama)
    seen = 0

    def count(module, args, kwargs) -> None:
        nonlocal seen
        hidden = args[0] if args else kwargs["hidden_states"]
        seen += hidden.shape[0] * hidden.shape[1]

    handle = llama.blocks.stack[0].register_forward_pre_hook(count, with_kwargs=True)
    directions = _directions(llama, (1,))
    project_tokens(llama.model, texts, directions, batch_tokens=1)
    shared, seen = seen, 0
    project_tokens(llama.model, texts, directions, batch_tokens=1, share_prefixes=False)
    handle.remove()
    assert seen == sum(map(len, texts))
    # Five texts and their stem alone: the stem, less the token that the shortest keeps, five
    # times less.
    assert seen - shared == 5 * 39


def test_stems_take_what_saves_more() -> None:
    """A system prompt that all share, or whole prompts under it that some share."""
    system, a, b = list(range(10)), list(range(100, 140)), list(range(200, 240))
    texts = [
        np.array([*system, *prompt, 1000 + i], np.int32) for prompt in (a, b) for i in range(4)
    ]
    assert sorted(_stems(texts)) == [(50, [0, 1, 2, 3]), (50, [4, 5, 6, 7])]
    longer = [np.array([*range(60), 100 + i, i], np.int32) for i in range(6)]
    assert _stems(longer) == [(60, [0, 1, 2, 3, 4, 5])]
    unlike = [np.array([i, *range(50)], np.int32) for i in range(6)]
    assert _stems(unlike) == [(0, [0, 1, 2, 3, 4, 5])]
    every = [i for _, members in _stems([*texts, *longer, *unlike]) for i in members]
    assert sorted(every) == list(range(20))


def test_beginnings_can_be_nested_as_deeply_as_there_are_texts() -> None:
    """512 pairs whose prompts begin each other make a window of 1,024 such texts."""
    texts = [np.zeros(1 + i, np.int32) for i in range(1100)]
    members = [i for _, group in _stems(texts) for i in group]
    assert sorted(members) == list(range(1100))


def test_the_forward_ends_after_the_deepest_layer(llama: LoadedModel) -> None:
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(llama.blocks.stack, start=1)
    ]
    project_tokens(llama.model, _texts(llama)[:2], _directions(llama, (2, 1)))
    for handle in handles:
        handle.remove()
    assert set(ran) == {1, 2}


def test_activations_that_are_not_finite_are_an_error(fresh: Callable[..., LoadedModel]) -> None:
    broken = fresh()
    with torch.no_grad():
        broken.model.get_input_embeddings().weight[7] = torch.inf
    texts = [np.array([5, 6], np.int32), np.array([7], np.int32)]
    with pytest.raises(ActivationError, match="NaN or infinite"):
        project_tokens(broken.model, texts, _directions(broken, (1,)))
