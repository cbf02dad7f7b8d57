"""The model's own responses to prompts, which are kept."""

from pathlib import Path

import pytest
import torch
from generating import generate

from personavec import LoadedModel
from personavec.errors import DataError
from personavec.model import chat
from personavec.model.engine import Request, Sampling
from personavec.rollouts import Naturals, prompt_key


def test_several_natural_responses_are_sampled_and_their_means_averaged(
    tmp_path: Path, llama: LoadedModel
) -> None:
    prompts = [tuple(llama.chat.prompt_ids(chat(text))) for text in ("Hi", "Who are you?")]
    naturals = Naturals(llama, tmp_path, max_tokens=6, samples=3)
    found = naturals.means(prompts, [1, 2])
    assert naturals.kept == 2
    for prompt in prompts:
        key = prompt_key(prompt)
        alone = [Request(f"{key}/{sample}", prompt) for sample in range(3)]
        made = [
            g for group in generate(llama, alone, Sampling(6, 0.7), capture=True) for g in group
        ]
        assert len({g.response_ids for g in made}) > 1
        means = torch.stack([g.activations[0, 1:3] for g in made if g.activations is not None])
        mean = found[key]
        assert mean is not None
        torch.testing.assert_close(mean, means.mean(0), atol=1e-4, rtol=1e-4)
        kept = naturals.response(prompt)
        first = next(g for g in made if g.id.endswith("/0"))
        assert kept is not None
        assert kept.response == llama.chat.decode(first.response_ids)
    assert Naturals(llama, tmp_path, max_tokens=6).kept == 0  # the greedy ones are others


def test_a_prompt_without_room_has_no_natural_response(tmp_path: Path, llama: LoadedModel) -> None:
    naturals = Naturals(llama, tmp_path, max_tokens=llama.context - 5)
    prompt = tuple([5] * 6)
    assert naturals.means([prompt], [1]) == {prompt_key(prompt): None}


def test_a_damaged_file_of_natural_responses_is_named(tmp_path: Path, llama: LoadedModel) -> None:
    naturals = Naturals(llama, tmp_path, max_tokens=2)
    naturals.means([(5, 6)], [1])
    [path] = tmp_path.rglob("*.safetensors")
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="damaged"):
        Naturals(llama, tmp_path, max_tokens=2)
