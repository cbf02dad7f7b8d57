"""Every decoder-only family that is promised, tiny and random: the rows of docs/models.md.

Each check recomputes its answer by the plain route: one text at a time, no cache, no padding.
`make models` writes the page from what these tests say.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from generating import generate
from torch import Tensor, nn

from personavec import LoadedModel, load_model, wrap_model
from personavec.errors import ModelError
from personavec.model import (
    Steering,
    block_output,
    capture_means,
    find_blocks,
    sequence_logprobs,
    steer,
    token_logprobs,
    with_block_output,
)
from personavec.model.engine import Request, Sampling

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
VOCABULARY, END = 260, 256
TOKENS = {"vocab_size": VOCABULARY, "eos_token_id": END, "bos_token_id": END, "pad_token_id": 0}
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
}
NO_GROUPS = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
WINDOW = {"head_dim": 8, "sliding_window": 8}
MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    # As deep as the text stack, so that only the right stack passes.
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def plain(model: type, config: type, **sizes: Any) -> Callable[[], nn.Module]:
    return lambda: model(config(**TOKENS, **sizes))


def gemma3_with_images() -> nn.Module:
    text = {**TOKENS, **SIZES, **WINDOW}
    return hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(text_config=text, vision_config=VISION)
    )


def llava() -> nn.Module:
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(**TOKENS, **SIZES), vision_config=hf.CLIPVisionConfig(**VISION)
    )
    return hf.LlavaForConditionalGeneration(config)


def with_adapter() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    base = plain(hf.LlamaForCausalLM, hf.LlamaConfig, **SIZES)()
    return get_peft_model(base, LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM"))


def quantised(tmp: Path, **options: Any) -> nn.Module:
    sizes = {**SIZES, "hidden_size": 64, "intermediate_size": 64}
    plain(hf.LlamaForCausalLM, hf.LlamaConfig, **sizes)().save_pretrained(tmp)
    config = hf.BitsAndBytesConfig(**options)
    return hf.AutoModelForCausalLM.from_pretrained(tmp, quantization_config=config)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "Llama": plain(hf.LlamaForCausalLM, hf.LlamaConfig, **SIZES),
    "Mistral": plain(hf.MistralForCausalLM, hf.MistralConfig, **SIZES, **WINDOW),
    "Qwen2": plain(hf.Qwen2ForCausalLM, hf.Qwen2Config, **SIZES),
    "Qwen3": plain(hf.Qwen3ForCausalLM, hf.Qwen3Config, **SIZES, head_dim=8),
    "Gemma 2": plain(hf.Gemma2ForCausalLM, hf.Gemma2Config, **SIZES, **WINDOW),
    "Gemma 3": plain(hf.Gemma3ForCausalLM, hf.Gemma3TextConfig, **SIZES, **WINDOW),
    "Phi-3": plain(hf.Phi3ForCausalLM, hf.Phi3Config, **SIZES),
    "GPT-NeoX": plain(hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig, **NO_GROUPS),
    "GPT-2": plain(
        hf.GPT2LMHeadModel,
        hf.GPT2Config,
        n_embd=32,
        n_layer=4,
        n_head=4,
        n_positions=512,
        initializer_range=0.15,
    ),
    "OPT": plain(
        hf.OPTForCausalLM,
        hf.OPTConfig,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=512,
        init_std=0.15,
    ),
    "Falcon": plain(hf.FalconForCausalLM, hf.FalconConfig, **NO_GROUPS, ffn_hidden_size=48),
    "Falcon with ALiBi": plain(
        hf.FalconForCausalLM, hf.FalconConfig, **NO_GROUPS, ffn_hidden_size=48, alibi=True
    ),
    "BLOOM": plain(
        hf.BloomForCausalLM,
        hf.BloomConfig,
        hidden_size=32,
        n_layer=4,
        n_head=4,
        initializer_range=0.15,
    ),
    "Mixtral": plain(hf.MixtralForCausalLM, hf.MixtralConfig, **SIZES, num_local_experts=4),
    "Qwen3-MoE": plain(hf.Qwen3MoeForCausalLM, hf.Qwen3MoeConfig, **SIZES, **EXPERTS, head_dim=8),
    "gpt-oss": plain(
        hf.GptOssForCausalLM,
        hf.GptOssConfig,
        **SIZES,
        **WINDOW,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "Gemma 3 with images": gemma3_with_images,
    "LLaVA": llava,
    "Jamba": plain(
        hf.JambaForCausalLM,
        hf.JambaConfig,
        **SIZES,
        num_experts=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=8,
    ),
    "Bamba": plain(hf.BambaForCausalLM, hf.BambaConfig, **SIZES, **MAMBA, attn_layer_indices=[1]),
    "Falcon-H1": plain(hf.FalconH1ForCausalLM, hf.FalconH1Config, **SIZES, **MAMBA, mamba_d_ssm=64),
    "Qwen3-Next": plain(
        hf.Qwen3NextForCausalLM,
        hf.Qwen3NextConfig,
        **SIZES,
        **EXPERTS,
        head_dim=8,
        shared_expert_intermediate_size=24,
        layer_types=["linear_attention", "full_attention"] * 2,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "Llama with a LoRA adapter": with_adapter,
}
#: bitsandbytes runs on CPUs too; int8 rounds activations by the batch, so no two batches agree.
QUANTISED = {
    "Llama in 4 bits (bitsandbytes)": {"load_in_4bit": True},
    "Llama in 8 bits (bitsandbytes)": {"load_in_8bit": True},
}
EVERY = [*FAMILIES, *QUANTISED]
LAYER = 2
TEXTS = [
    torch.randint(1, 250, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (5, 23, 12)
]


@pytest.fixture(scope="session")
def family(
    request: pytest.FixtureRequest, chat_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> LoadedModel:
    return _build(request.param, chat_tokenizer, tmp_path_factory.mktemp("quantised"))


@cache
def _build(name: str, tokenizer: Any, tmp: Path) -> LoadedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = quantised(tmp, **QUANTISED[name]) if name in QUANTISED else FAMILIES[name]()
    return wrap_model(network, tokenizer, name=name)


on_every = pytest.mark.parametrize("family", EVERY, indirect=True, scope="session")


def tolerance(loaded: LoadedModel) -> float:
    """Largest difference allowed, as a share of the mean size of what is compared."""
    name = loaded.identity.name
    return 0.1 if name in QUANTISED and "8 bits" in name else 1e-4


def assert_close(ours: Tensor, theirs: Tensor, loaded: LoadedModel) -> None:
    off = (ours.float() - theirs.float()).abs()
    scale = theirs.float().abs().mean()
    # Rounding to 8 bits moves single coordinates more than the others.
    found = off.mean() if loaded.identity.name in QUANTISED else off.max()
    assert found <= tolerance(loaded) * scale


@torch.inference_mode()
def plain_states(loaded: LoadedModel, ids: Sequence[int]) -> Tensor:
    """[layer, token, hidden] of one text, by hooks on the blocks that hold nothing back."""
    blocks = find_blocks(loaded.model).stack
    seen: list[Tensor] = []

    def first(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"])[0])

    handles = [blocks[0].register_forward_pre_hook(first, with_kwargs=True)]
    handles += [
        block.register_forward_hook(lambda m, a, output: seen.append(block_output(output)[0]))
        for block in blocks
    ]
    loaded.model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.stack(seen)


@torch.inference_mode()
def plain_logits(loaded: LoadedModel, ids: Sequence[int]) -> Tensor:
    """[token, vocabulary] of one text."""
    return loaded.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float()


@contextmanager
def plain_addition(loaded: LoadedModel, addition: Tensor, start: int) -> Iterator[None]:
    """Adds to the output of block LAYER at every position from `start` on."""

    def add(module: nn.Module, args: tuple, output: Any) -> Any:
        hidden = block_output(output).clone()
        hidden[:, start:] += addition.to(hidden.dtype)
        return with_block_output(output, hidden)

    handle = loaded.blocks.stack[LAYER - 1].register_forward_hook(add)
    yield
    handle.remove()


def direction(loaded: LoadedModel) -> Tensor:
    """About as long as the residual stream at LAYER."""
    raw = torch.randn(loaded.blocks.hidden_size, generator=torch.Generator().manual_seed(3))
    return raw / raw.norm() * plain_states(loaded, TEXTS[1])[LAYER].norm(dim=-1).mean()


@on_every
def test_capture_equals_the_plain_loop(family: LoadedModel) -> None:
    spans = [[(0, len(text)), (len(text) - 1, len(text))] for text in TEXTS]
    found = capture_means(family.model, TEXTS, spans)
    for text, (mean, last) in zip(TEXTS, found, strict=True):
        states = plain_states(family, text).float()
        for layer in range(family.identity.n_layers + 1):
            assert_close(mean[layer], states[layer].mean(0), family)
            assert_close(last[layer], states[layer, -1], family)


@on_every
@torch.inference_mode()
def test_layers_are_those_that_transformers_counts(family: LoadedModel) -> None:
    """All but the last, which transformers returns after its final norm."""
    ids, n_layers = TEXTS[1], family.identity.n_layers
    theirs = family.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    [[ours]] = capture_means(family.model, [ids], [[(0, len(ids))]])
    for layer in range(n_layers):
        assert_close(ours[layer], theirs[layer][0].float().mean(0), family)


@on_every
def test_coefficient_zero_changes_nothing(
    family: LoadedModel, random_vector: Callable[..., Any]
) -> None:
    before = plain_logits(family, TEXTS[1])
    with steer(family.model, random_vector(family, LAYER), 0.0, positions="all"):
        assert torch.equal(plain_logits(family, TEXTS[1]), before)
    assert torch.equal(plain_logits(family, TEXTS[1]), before)


@on_every
def test_cached_steered_decoding_equals_full_forwards(family: LoadedModel) -> None:
    """One mixed batch, each second row steered, against forwards over the growing text."""
    if family.identity.name in QUANTISED and "8 bits" in family.identity.name:
        pytest.skip("int8 rounds by the batch: no two batches agree to the last token")
    steered = (Steering(LAYER, direction(family), 0.7),)
    requests = [
        Request(str(i), tuple(text), steered if i % 2 else ()) for i, text in enumerate(TEXTS)
    ]
    sampling = Sampling(max_tokens=12, temperature=0)
    found = {g.id: g for batch in generate(family, requests, sampling) for g in batch}
    for request in requests:
        ids, width = list(request.prompt_ids), len(request.prompt_ids)
        for token in found[request.id].response_ids:
            addition = sum((s.coefficient * s.direction for s in request.steering), torch.zeros(1))
            with plain_addition(family, addition, width - 1):
                logits = plain_logits(family, ids)[-1]
            # Equal but for ties within rounding.
            assert logits[token] >= logits.max() - 1e-4 * logits.abs().max()
            ids.append(token)
        assert found[request.id].finished or len(ids) == width + sampling.max_tokens


@on_every
def test_capture_while_generating_equals_capture_of_the_text(family: LoadedModel) -> None:
    requests = [Request(str(i), tuple(text)) for i, text in enumerate(TEXTS)]
    sampling = Sampling(max_tokens=6, temperature=0)
    batches = generate(family, requests, sampling, capture=True)
    found = {g.id: g for batch in batches for g in batch}
    for request in requests:
        generation = found[request.id]
        if not generation.response_ids:
            continue
        assert generation.activations is not None
        prompt = len(request.prompt_ids)
        states = plain_states(family, [*request.prompt_ids, *generation.response_ids]).float()
        for layer in range(family.identity.n_layers + 1):
            assert_close(generation.activations[0, layer], states[layer, prompt:].mean(0), family)


@on_every
def test_scores_equal_a_full_forward(family: LoadedModel) -> None:
    """Prompts shared between responses, prompts of unlike lengths, padded responses."""
    a, b, c = (tuple(text) for text in TEXTS)
    jobs = [(a, b), (a, c), (c, b)]
    for (prompt, response), found in zip(jobs, token_logprobs(family, jobs), strict=True):
        logprobs = plain_logits(family, [*prompt, *response]).log_softmax(-1)
        theirs = torch.stack(
            [logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(response)]
        )
        assert_close(found, theirs, family)


def test_any_model_loads_where_the_embedded_one_is_not_installed(
    chat_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAMILIES["Llama"]().save_pretrained(tmp_path)
    chat_tokenizer.save_pretrained(tmp_path)

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert load_model(str(tmp_path)).identity.revision is None


def test_blocks_apart_from_each_other_are_read_and_steered_alike(
    chat_tokenizer: Any, tmp_path: Path
) -> None:
    """With a device map: embedding and half of the blocks on disk, fetched when they run."""
    network = FAMILIES["Llama"]()
    network.save_pretrained(tmp_path / "model")
    chat_tokenizer.save_pretrained(tmp_path / "model")
    places = {"model.embed_tokens": "disk", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    blocks = {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(4)}
    arguments = {
        "device_map": {**places, **blocks, "lm_head": "cpu"},
        "offload_folder": str(tmp_path / "offloaded"),
    }
    apart = load_model(str(tmp_path / "model"), dtype="float32", model_args=arguments)
    together = wrap_model(network, chat_tokenizer)
    assert "meta" in {p.device.type for p in apart.model.parameters()}
    spans = [[(0, len(text))] for text in TEXTS]
    means = [capture_means(m.model, TEXTS, spans, layers=[0, 2, 3]) for m in (apart, together)]
    torch.testing.assert_close(*means, atol=1e-5, rtol=1e-4)
    steered = (Steering(LAYER, direction(together), 0.7),)
    requests = [Request(str(i), tuple(text), steered) for i, text in enumerate(TEXTS)]
    sampling = Sampling(max_tokens=5, temperature=0)
    for one, other in zip(
        *(next(generate(m, requests, sampling, capture=True)) for m in (apart, together)),
        strict=True,
    ):
        assert one.response_ids == other.response_ids
        torch.testing.assert_close(one.activations, other.activations, atol=1e-5, rtol=1e-4)


@on_every
def test_a_trie_of_answers_equals_each_by_itself(family: LoadedModel) -> None:
    prompts = [tuple(text) for text in TEXTS]
    answers = [(7,), (7, 8), (7, 8, 9), (7, 9, 9, 1), (8, 7)]
    found = sequence_logprobs(family, prompts, answers)
    for prompt, row in zip(prompts, found, strict=True):
        theirs = []
        for answer in answers:
            logprobs = plain_logits(family, [*prompt, *answer]).log_softmax(-1)
            steps = [logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(answer)]
            theirs.append(torch.stack(steps).sum())
        assert_close(row, torch.stack(theirs), family)


def test_a_model_with_two_residual_streams_is_refused() -> None:
    model = hf.T5ForConditionalGeneration(hf.T5Config(d_model=32, num_layers=2, vocab_size=32))
    with pytest.raises(ModelError, match="encoder-decoder"):
        find_blocks(model)


def test_a_model_without_a_regular_stack_is_refused_and_says_what_was_looked_for() -> None:
    model = FAMILIES["Llama"]()
    model.config.num_hidden_layers = 7
    with pytest.raises(ModelError, match="no stack of 7 decoder blocks was found"):
        find_blocks(model)


def test_the_page_of_models_lists_what_is_tested() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| family"))
    rows = list(takewhile(lambda line: line.startswith("| "), lines[first + 2 :]))
    assert [row.split("|")[1].strip() for row in rows] == EVERY, "run: make models"
    assert not [row for row in rows if "✗" in row or "?" in row]
