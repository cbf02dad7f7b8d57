"""Drives the page in a real browser, on a real server with a tiny model.

The model's whole vocabulary is markup: whatever it writes would be seen to run, if it ever was more
than text.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from personavec import LoadedModel, PersonaVector, wrap_model
from personavec.serve import ServeConfig, server as run

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect

WORDS = (
    "<img src=x onerror=\"document.title='taken'\">",
    "<script>document.title='taken'</script>",
    "<em>bold</em>",
    "&lt;i&gt;",
    "</section>",
    "<style>*{display:none}</style>",
)
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@contextmanager
def serving(
    loaded: LoadedModel,
    vectors: dict[str, PersonaVector],
    reports: dict[str, Path] | None = None,
    **settings: Any,
) -> Iterator[str]:
    given = ServeConfig(name="tiny", **settings)
    with run.serving(loaded, vectors, given, reports=reports, shutdown_seconds=5) as (url, _):
        yield url


def build() -> LoadedModel:
    """A random model that can write nothing but `WORDS`, and does not stop by itself.

    A server keeps hooks on its model, so that each needs its own.
    """
    vocabulary = {word: i for i, word in enumerate((*WORDS, "other"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="other"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    specials = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in specials])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", unk_token="other", chat_template=TEMPLATE
    )
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_attention_heads=4,
        num_key_value_heads=2, num_hidden_layers=3, max_position_embeddings=4096,
        initializer_range=0.15, eos_token_id=fast.eos_token_id, bos_token_id=fast.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = LlamaForCausalLM(config)
    # The head's bias: what is no word is never chosen.
    bias = torch.full((len(fast),), -1e4)
    bias[: len(WORDS)] = 0
    network.lm_head.bias = torch.nn.Parameter(bias)
    return wrap_model(network.float(), fast, name="tiny")


def two_vectors(loaded: LoadedModel) -> dict[str, PersonaVector]:
    """Two that mean nothing; the baseline of `bold` is so narrow that its readings raise alarms."""
    generator = torch.Generator().manual_seed(1)

    def make(trait: str, spread: float) -> PersonaVector:
        diffs = [torch.randn(4, 32, generator=generator) for _ in range(3)]
        baseline = torch.tensor([[-1.0, spread]]).repeat(4, 1)
        meta = {"model": loaded.identity.as_dict(), "coherent_range": [-1.0, 1.5]}
        return PersonaVector(
            *diffs, residual_norm=torch.ones(4), neutral_response_mean=baseline,
            neutral_prompt_last=baseline, trait=trait, layer=2, meta=meta,
        )  # fmt: skip

    return {"bold": make("bold", 0.01), "shy": make("shy", 10.0)}


@contextmanager
def opened(
    browser: Any, url: str, width: int = 1280, height: int = 800, **more: Any
) -> Iterator[Any]:
    """A fresh tab on the page. No error may reach its console: no script of ours fails, and the
    content-security policy has nothing to refuse."""
    context = browser.new_context(viewport={"width": width, "height": height}, **more)
    context.set_default_timeout(60_000)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
    page.goto(url)
    page.get_by_label("Message").wait_for()
    yield page
    context.close()
    # Of a request that the server refuses, the browser tells in any case.
    assert not [text for text in wrong if "status of 4" not in text]


def ask(page: Any, question: str = "How are you?", tokens: int = 8) -> None:
    """Send a question and wait for all its replies."""
    limit = page.get_by_label("Longest reply, tokens")
    if not limit.is_visible():
        page.locator("summary", has_text="Settings").click()
    limit.fill(str(tokens))
    before = page.locator("article").count()
    page.get_by_label("Message").fill(question)
    page.get_by_label("Message").press("Enter")
    turn = page.locator("article").nth(before)
    expect(turn.locator(".tokens").first).to_be_visible(timeout=120_000)
    expect(page.locator("[aria-busy=true]")).to_have_count(0, timeout=120_000)


def slider(page: Any, trait: str, side: str = "") -> Any:
    """The slider of a trait, or the one of a side, `A` or `B`."""
    name = f"{trait}: coefficient" + (f" of {side}" if side else "")
    return page.get_by_role("slider", name=name, exact=True)


def slide(page: Any, trait: str, steps: int) -> None:
    found = slider(page, trait)
    for _ in range(abs(steps)):
        found.press("ArrowRight" if steps > 0 else "ArrowLeft")
