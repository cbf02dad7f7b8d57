"""One answer of a model in memory: a question in, its text out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from personavec.model.chat_format import Message, chat
from personavec.model.loaded import LoadedModel


def respond(
    loaded: LoadedModel,
    asked: str | Sequence[Message],
    *,
    max_tokens: int = 64,
    temperature: float = 0.0,
) -> str:
    """The model's answer to a question, or to a conversation that ends with one.

    A temperature of 0 is greedy; above it torch's generator samples. Within `steer` the answer is
    steered. Answers to many questions come faster from `evaluate.run` and `evaluate.steer`.
    """
    messages = chat(asked) if isinstance(asked, str) else list(asked)
    prompt = torch.tensor([loaded.chat.prompt_ids(messages)], device=loaded.device)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    if temperature == 0:
        sampling = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    stops = sorted(loaded.stop_ids)
    output = loaded.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=max_tokens,
        eos_token_id=stops,
        pad_token_id=stops[0],
        **sampling,
    )
    found = output[0, prompt.shape[1] :].tolist()
    ended = next((at for at, token in enumerate(found) if token in loaded.stop_ids), len(found))
    return loaded.chat.decode(found[:ended])
