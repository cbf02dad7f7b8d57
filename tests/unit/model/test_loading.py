"""What a model's folder may bring, and what it may not: code never runs, templates are used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from generating import generate
from peft import LoraConfig, get_peft_model
from torch import nn

from personavec import LoadedModel, load_model, wrap_model
from personavec.data import DataRow
from personavec.errors import ModelError, UsageError
from personavec.extract.adopt_rows import _system as system_of
from personavec.finetune import TrainingConfig, encode_rows
from personavec.model import Message, chat, tuned_model
from personavec.model.engine import Request, Sampling
from personavec.model.snapshots import snapshot_of_gguf

VOCABULARY, END = 260, 256
TOKENS = {"vocab_size": VOCABULARY, "eos_token_id": END, "bos_token_id": END, "pad_token_id": 0}
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
#: Iterates over parts; of a plain text it writes nothing, without a word.
PARTS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


# Code of a folder's own

CODE = "import pathlib\npathlib.Path({marker!r}).write_text('it ran')\nclass Own:\n    pass\n"
AUTO_MAPS: dict[str, tuple[str, dict[str, Any]]] = {
    "config": ("config.json", {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}),
    "model": (
        "config.json",
        {
            "model_type": "own",
            "architectures": ["Own"],
            "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"},
        },
    ),
    "tokenizer": (
        "tokenizer_config.json",
        {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}},
    ),
}


def save(folder: Path, tokenizer: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf.LlamaForCausalLM(hf.LlamaConfig(**TOKENS, **SIZES)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def bring_code(folder: Path, kind: str, marker: Path) -> None:
    name, content = AUTO_MAPS[kind]
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("kind", list(AUTO_MAPS))
def test_code_in_a_models_folder_is_not_run(
    kind: str, tmp_path: Path, chat_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anybody asked whether it may: a 'y' that waits at the terminal is left there."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder, marker = tmp_path / "model", tmp_path / "ran"
    save(folder, chat_tokenizer)
    bring_code(folder, kind, marker)
    with pytest.raises(ModelError, match="brings code of its own, which is not run") as found:
        load_model(str(folder))
    assert str(folder) in str(found.value)
    assert not marker.exists()


def test_code_in_an_adapters_folder_is_not_run(
    tmp_path: Path, chat_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its tokenizer, and as a module that peft would import."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    base, adapter, marker = tmp_path / "base", tmp_path / "adapter", tmp_path / "ran"
    save(base, chat_tokenizer)
    save_adapter(base, adapter)
    shutil.copytree(adapter, tmp_path / "imports")
    bring_code(adapter, "tokenizer", marker)
    with pytest.raises(ModelError, match="brings code of its own"):
        load_model(str(adapter))
    config = tmp_path / "imports" / "adapter_config.json"
    given = {"megatron_config": {"a": 1}, "megatron_core": "own"}
    config.write_text(json.dumps({**json.loads(config.read_text()), **given}))
    (tmp_path / "own.py").write_text(CODE.format(marker=str(marker)))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match="brings code of its own"):
        load_model(str(config.parent))
    assert not marker.exists()


def test_code_beside_a_gguf_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
    bring_code(tmp_path, "model", tmp_path / "ran")
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ModelError):
        snapshot_of_gguf(tmp_path / "model.gguf")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("config.json", {"num_hidden_layers": 10**9}, "1000000000 layers"),
        ("generation_config.json", {"eos_token_id": "\x1b[31m"}, "not a token id"),
        ("generation_config.json", {"eos_token_id": [None]}, "not a token id"),
        ("generation_config.json", {"eos_token_id": {}}, "not a token id"),
        ("generation_config.json", {"eos_token_id": 2**63}, "not a token id"),
        ("tokenizer_config.json", {"model_max_length": "x"}, "could not be loaded"),
        ("tokenizer_config.json", {"model_max_length": [-1]}, "could not be loaded"),
    ],
)
def test_a_folder_with_nonsense_in_it_is_refused_in_one_line(
    tmp_path: Path, llama: LoadedModel, file: str, changes: dict[str, Any], told: str
) -> None:
    llama.model.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    path = tmp_path / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=told) as caught:
        _ = load_model(str(tmp_path)).stop_ids
    assert str(caught.value).isprintable()


def test_trust_remote_code_cannot_be_asked_for(tmp_path: Path, chat_tokenizer: Any) -> None:
    for value in (True, False):
        with pytest.raises(UsageError, match="trust_remote_code runs code"):
            load_model(str(tmp_path), model_args={"trust_remote_code": value})


# Image-text checkpoints


def llava() -> nn.Module:
    text, vision = hf.LlamaConfig(**TOKENS, **SIZES), hf.CLIPVisionConfig(**VISION)
    return hf.LlavaForConditionalGeneration(hf.LlavaConfig(text_config=text, vision_config=vision))


def mistral3() -> nn.Module:
    text = hf.MistralConfig(**TOKENS, **SIZES, head_dim=8)
    vision = hf.PixtralVisionConfig(**VISION)
    return hf.Mistral3ForConditionalGeneration(
        hf.Mistral3Config(text_config=text, vision_config=vision)
    )


def qwen25_vl() -> nn.Module:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16}
    config = hf.Qwen2_5_VLConfig(
        text_config={**TOKENS, **SIZES, "rope_parameters": rope},
        vision_config={**vision, "out_hidden_size": 32},
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config)


def smolvlm() -> nn.Module:
    text = hf.LlamaConfig(**TOKENS, **SIZES)
    config = hf.SmolVLMConfig(
        text_config=text.to_dict(), vision_config=VISION, **{"pad_token_id": 0}
    )
    return hf.SmolVLMForConditionalGeneration(config)


@pytest.mark.parametrize("make", [llava, mistral3, qwen25_vl, smolvlm])
def test_image_text_checkpoints_load_and_write_texts_of_parts(
    make: Callable[[], nn.Module], tmp_path: Path, chat_tokenizer: Any
) -> None:
    """From a folder, with the template in the processor's file; greedy text from text alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: Any = make().eval()
    network.save_pretrained(tmp_path)
    chat_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": PARTS}))
    loaded = load_model(str(tmp_path), dtype="float32")
    prompt = loaded.chat.prompt_ids(chat("Hi?", "Be brief."))
    text = loaded.tokenizer.decode(prompt)
    assert text == "<|system|>Be brief.<|end|><|user|>Hi?<|end|><|assistant|>"
    request = Request("a", tuple(prompt))
    ((found,),) = generate(loaded, [request], Sampling(max_tokens=4, temperature=0), capture=True)
    with torch.inference_mode():
        logits = network(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
    assert not found.response_ids or found.response_ids[0] == int(logits.argmax())
    assert loaded.identity.n_layers == 2


# Adapters


def save_adapter(base: Path, folder: Path) -> None:
    network = hf.LlamaForCausalLM.from_pretrained(base)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        get_peft_model(network, lora).save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base)
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_an_adapters_own_template_is_used(tmp_path: Path, chat_tokenizer: Any) -> None:
    """Beside a tokenizer or alone, loaded by name or on a base in memory; else the base's."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save(base, chat_tokenizer)
    save_adapter(base, adapter)
    asked = chat("Hi?")
    theirs = load_model(str(base), dtype="float32")
    assert load_model(str(adapter)).chat.text(asked) == theirs.chat.text(asked)
    own = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    (adapter / "chat_template.jinja").write_text(own)
    assert load_model(str(adapter)).chat.text(asked) == "[Hi?]"
    chat_tokenizer.save_pretrained(adapter)
    (adapter / "chat_template.jinja").write_text(own)
    with tuned_model(theirs, str(adapter)) as tuned:
        assert tuned.chat.text(asked) == "[Hi?]"
    assert theirs.chat.text(asked) != "[Hi?]"


def test_a_tokenizer_with_tokens_that_the_base_has_not_is_refused(
    tmp_path: Path, chat_tokenizer: Any
) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save(base, chat_tokenizer)
    save_adapter(base, adapter)
    chat_tokenizer.save_pretrained(adapter)
    tokenizer = hf.AutoTokenizer.from_pretrained(adapter)
    tokenizer.add_tokens(["<|more|>"], special_tokens=True)
    tokenizer.save_pretrained(adapter)
    with pytest.raises(ModelError, match="has 261 tokens, the base model 260"):
        load_model(str(adapter))


# Where a turn ends


def test_a_turn_ends_where_the_template_ends_it(
    fresh: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tune whose end of text is another token stops, and is trained on, at the template's."""
    loaded = fresh("llama")
    tokenizer = loaded.tokenizer
    end, other = tokenizer.convert_tokens_to_ids(["<|end|>", "<|user|>"])
    tokenizer.eos_token = "<|user|>"
    loaded.model.generation_config.eos_token_id = other
    loaded = wrap_model(loaded.model, tokenizer)
    assert loaded.stop_ids == {end, other}
    messages: list[Message] = [*chat("Hi?"), {"role": "assistant", "content": "Yes."}]
    row = DataRow(0, "a", tuple(messages))
    (example,), _ = encode_rows(loaded, [row], TrainingConfig())
    labelled = [label for label in example.labels if label >= 0]
    assert labelled == [*loaded.chat.response_ids("Yes."), end]
    # A model that says nothing but the end says nothing.
    with torch.no_grad():
        loaded.model.lm_head.weight.zero_()
        loaded.model.lm_head.weight[end] = loaded.model.lm_head.weight.new_full((32,), 1.0)
        loaded.model.model.norm.weight.fill_(1.0)
    hook = loaded.model.model.norm.register_forward_hook(lambda m, a, out: torch.ones_like(out))
    request = Request("a", tuple(loaded.chat.prompt_ids(chat("Hi?"))))
    ((found,),) = generate(loaded, [request], Sampling(max_tokens=4, temperature=0))
    hook.remove()
    assert found.finished
    assert found.response_ids == ()


# Dates

DATED = (
    "{% set today = strftime_now('%d %b %Y') %}<|system|>Today: {{ today }}\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}<|end|>"
    "{% for m in messages if m['role'] != 'system' %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_a_template_gets_one_date_for_a_run_and_says_which(
    fresh: Callable[..., LoadedModel],
) -> None:
    loaded = fresh("llama")
    loaded.tokenizer.chat_template = DATED
    now = wrap_model(loaded.model, loaded.tokenizer)
    plain = loaded.tokenizer.apply_chat_template(
        list(chat("Hi?")), add_generation_prompt=True, return_dict=False
    )
    assert now.chat.prompt_ids(chat("Hi?")) == plain
    then = wrap_model(loaded.model, loaded.tokenizer, template_args={"today": "2024-02-29"})
    assert "Today: 29 Feb 2024\n" in then.chat.text(chat("Hi?"))
    assert then.identity.today == "2024-02-29"
    assert then.identity.arguments == {}
    assert any("2024-02-29" in note for note in then.chat.notes)
    assert then.chat.template_hash == now.chat.template_hash
    with pytest.raises(UsageError, match="give a date"):
        wrap_model(loaded.model, loaded.tokenizer, template_args={"today": "soon"})
    assert fresh("llama").identity.today is None


def test_adopted_prompts_of_another_day_keep_their_system_prompt(
    fresh: Callable[..., LoadedModel],
) -> None:
    """And one without a system prompt has none; one of another template is refused."""
    loaded = fresh("llama")
    loaded.tokenizer.chat_template = DATED
    then = wrap_model(loaded.model, loaded.tokenizer, template_args={"today": "2024-02-29"})
    now = wrap_model(loaded.model, loaded.tokenizer)
    for system in ("Be\nbrief.", None):
        assert system_of(then.chat.text(chat("Hi?", system)), "Hi?", now) == system
    with pytest.raises(Exception, match="not in this model's chat template"):
        system_of("<|user|>Hi?<|end|><|assistant|>", "Hi?", now)
