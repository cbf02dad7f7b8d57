"""Captured means are what a naive loop over all hidden states computes."""

from collections.abc import Callable

import pytest
import torch
from generating import generate, generate_batch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from personavec import LoadedModel
from personavec.errors import ActivationError
from personavec.model import batches_under_budget, block_output, capture_means
from personavec.model.engine import Request, Sampling

close = {"atol": 1e-4, "rtol": 1e-4}
same_examples = settings(derandomize=True, max_examples=20, deadline=None)


@torch.inference_mode()
def all_hidden_states(loaded: LoadedModel, ids: list[int]) -> Tensor:
    """[layer, token, hidden] of one text; the last row before the final norm."""
    last: list[Tensor] = []
    handle = loaded.blocks.stack[-1].register_forward_hook(
        lambda module, args, output: last.append(block_output(output)[0])
    )
    found = loaded.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    handle.remove()
    return torch.stack([*(h[0] for h in found[:-1]), last[0]])


@st.composite
def texts_with_spans(draw: st.DrawFn) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Texts of unlike lengths, each with two spans that hold at least one token."""
    rows = draw(
        st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=24), min_size=1, max_size=6)
    )
    spans = []
    for row in rows:
        starts = [draw(st.integers(0, len(row) - 1)) for _ in range(2)]
        spans.append([(start, draw(st.integers(start + 1, len(row)))) for start in starts])
    return rows, spans


@same_examples
@given(texts=texts_with_spans(), budget=st.integers(1, 200))
def test_capture_equals_the_naive_loop_under_any_budget(
    loaded: LoadedModel, texts: tuple[list[list[int]], list[list[tuple[int, int]]]], budget: int
) -> None:
    """All layers, every span; float32 rounding is the only difference allowed."""
    rows, spans = texts
    naive = torch.stack(
        [
            torch.stack([all_hidden_states(loaded, row)[:, a:b].mean(1) for a, b in spans_of_row])
            for row, spans_of_row in zip(rows, spans, strict=True)
        ]
    )
    found = capture_means(loaded.model, rows, spans, batch_tokens=budget)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, naive, **close)


def test_chosen_layers_are_those_rows_of_all_layers(loaded: LoadedModel) -> None:
    """In the order they are asked for, the embedding (0) among them."""
    rows, spans = [[5, 6, 7, 8]], [[(0, 4)]]
    everything = capture_means(loaded.model, rows, spans)
    torch.testing.assert_close(
        capture_means(loaded.model, rows, spans, layers=[2, 0]), everything[:, :, [2, 0]]
    )


def test_padding_is_never_read(fresh: Callable[..., LoadedModel]) -> None:
    """What the padding token embeds to is of no consequence to a shorter text beside a longer."""
    rows, spans = [[5, 6, 7], list(range(1, 20))], [[(0, 3)], [(4, 9)]]
    model = fresh("llama").model
    before = capture_means(model, rows, spans)
    with torch.no_grad():
        model.get_input_embeddings().weight[0] += 100
    torch.testing.assert_close(capture_means(model, rows, spans), before, **close)


@pytest.mark.parametrize("layer", range(5))
def test_the_forward_stops_after_the_deepest_layer_needed(
    fresh: Callable[..., LoadedModel], layer: int
) -> None:
    """Deeper blocks compute nothing at all (layer 0 is read before the first), and hooks go."""
    loaded = fresh("llama")
    computed: list[int] = []
    for i, block in enumerate(loaded.blocks.stack, start=1):
        block.mlp.register_forward_hook(lambda *_, i=i: computed.append(i))
    capture_means(loaded.model, [[1, 2, 3]], [[(0, 3)]], layers=[layer])
    assert computed == list(range(1, layer + 1))
    for block in loaded.blocks.stack:
        assert not block._forward_hooks
        assert not block._forward_pre_hooks


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_raise_and_name_the_remedy(
    fresh: Callable[..., LoadedModel], bad: float
) -> None:
    """While capturing a text, and while generating with and without capture."""
    loaded = fresh("llama")
    with torch.no_grad():
        loaded.blocks.stack[1].mlp.down_proj.weight[0, 0] = bad
    with pytest.raises(ActivationError, match="--dtype float32"):
        capture_means(loaded.model, [[1, 2, 3]], [[(0, 3)]])
    requests = [Request(name, (1, 2)) for name in "ab"]
    for capture in (True, False):
        with pytest.raises(ActivationError, match="--dtype float32"):
            list(generate(loaded, requests, Sampling(max_tokens=3), capture=capture))


def test_an_empty_span_is_refused(llama: LoadedModel) -> None:
    """A mean over nothing would be NaN, far from where the mistake was made."""
    with pytest.raises(ValueError, match="empty"):
        capture_means(llama.model, [[1, 2, 3]], [[(2, 2)]])


@given(
    lengths=st.lists(st.integers(1, 50), max_size=20),
    budget=st.integers(1, 120),
)
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    """Rows times the longest row, unless one row alone is longer than the budget."""
    batches = batches_under_budget(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_capture_while_generating_equals_capture_of_the_finished_text(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Responses cut off by the limit, ended early, and empty, in one left-padded batch.

    A fifth of all tokens end a turn here, so that 40 rollouts of up to 5 tokens hold each kind.
    """
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", list(range(50)))
    requests = [Request(f"r{i}", tuple(range(60, 61 + i % 9))) for i in range(40)]
    found = generate_batch(
        loaded, requests, Sampling(max_tokens=5, temperature=1.5, seed=1), capture=True
    )
    kinds = {(bool(g.response_ids), g.finished) for g in found}
    assert kinds == {(True, False), (True, True), (False, True)}
    for request, generation in zip(requests, found, strict=True):
        assert generation.finished == (len(generation.response_ids) < 5)
        if not generation.response_ids:
            assert generation.activations is None
            continue
        start = len(request.prompt_ids)
        row = [*request.prompt_ids, *generation.response_ids]
        spans = [(start, len(row)), (0, start), (start - 1, start)]
        [naive] = capture_means(loaded.model, [row], [spans])
        torch.testing.assert_close(generation.activations, naive, **close)
