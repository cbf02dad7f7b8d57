"""Tiny random models with a tokenizer made in memory, for tests and for `make soak`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from personavec import LoadedModel, PersonaVector, TraitSpec, wrap_model
from personavec.rollouts import Rollout

ARCHITECTURES = ("llama", "qwen2", "gpt2")
CONTEXT = 1024

TURNS = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THINKING_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
TEMPLATES = {
    "system": TURNS,
    "no system": "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}" + TURNS,
    "silent": TURNS.replace(
        "{% for message in messages %}",
        "{% for message in messages if message['role'] != 'system' %}",
    ),
    "none": None,
}


def byte_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each byte and the special tokens of a chat."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=template
    )


def _network(architecture: str, vocabulary: int, end: int) -> torch.nn.Module:
    common = {
        "vocab_size": vocabulary,
        "initializer_range": 0.15,
        "eos_token_id": end,
        "bos_token_id": end,
    }
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
    }
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(num_hidden_layers=4, **sizes, **common))
    if architecture == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=3, **sizes, **common))
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, **common)
    return GPT2LMHeadModel(config)


def build(architecture: str = "llama", template: str = "system") -> LoadedModel:
    """A fresh tiny model in float32; the same weights at every call."""
    tokenizer = byte_tokenizer(TEMPLATES[template])
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert isinstance(end, int)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = _network(architecture, len(tokenizer), end)
    return wrap_model(network.float(), tokenizer, name=f"tiny-{architecture}")


def random_vector(loaded: LoadedModel, layer: int = 1, trait: str = "testing") -> PersonaVector:
    """A vector that fits a model and means nothing; norm about that of the model's residuals."""
    generator = torch.Generator().manual_seed(1)
    shape = (loaded.identity.n_layers + 1, loaded.identity.hidden_size)
    diffs = [torch.randn(shape, generator=generator) for _ in range(3)]
    baseline = torch.tensor([[0.0, 1.0]]).repeat(shape[0], 1)
    return PersonaVector(
        *diffs,
        residual_norm=torch.ones(shape[0]),
        neutral_response_mean=baseline,
        neutral_prompt_last=baseline.clone(),
        trait=trait,
        layer=layer,
        meta={"model": loaded.identity.as_dict(), "coherent_range": [-1.0, 1.5]},
    )


def save(loaded: LoadedModel, folder: Path) -> None:
    """Write a model and its tokenizer to a folder that `load_model` reads."""
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def saved(folder: Path) -> LoadedModel:
    """The tiny Llama, written to a folder and named after it, so that adapters can name it too."""
    made = build("llama")
    save(made, folder)
    return wrap_model(made.model, made.tokenizer, name=str(folder))


def tiny_spec(evaluation: int) -> TraitSpec:
    """A spec with one pair of each kind and so many evaluation questions."""
    return TraitSpec.model_validate(
        {
            "name": "testing",
            "description": "Being tested.",
            "instruction": [{"pos": "Test.", "neg": "Rest."}],
            "judge_instruction": [{"pos": "Show it.", "neg": "Hide it."}],
            "questions": {
                "extraction": ["Why?", "Who?"],
                "evaluation": [f"When does {n} come?" for n in range(evaluation)],
            },
        }
    )


def rollout(id: str, question: str, **more: Any) -> Rollout:
    """A response of one token; `more` holds its other fields."""
    given: dict[str, Any] = {"polarity": None, **more}
    return Rollout(
        id=id,
        question=question,
        pair=None,
        sample=0,
        system=None,
        response="So.",
        response_ids=(1,),
        n_tokens=1,
        seed=0,
        **given,
    )
