"""The embedded model behind the server: steering holds over a long conversation, and stays out of
what is not steered."""

import threading
from typing import Any

import httpx2 as httpx
import numpy as np
import torch

from personavec import LoadedModel, load_model, load_trait, load_vector
from personavec.judges import Answer, ContrastJudge
from personavec.serve import ServeConfig
from personavec.serve.server import serving
from personavec.traits import neutral_prompts

TURNS, CONVERSATIONS, TOKENS = 10, 6, 32
Talk = list[dict[str, str]]
#: By number and coefficient.
Talks = dict[tuple[int, float], Talk]


def reply(url: str, talk: Talk, coefficient: float, **more: Any) -> str:
    asked = {
        "model": "smollm2",
        "messages": talk,
        "max_tokens": TOKENS,
        "temperature": 0.7,
        "personavec": {"monitor": []},
        **more,
    }
    if coefficient:
        asked["personavec"]["steer"] = [{"vector": "sycophantic", "coefficient": coefficient}]
    found = httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=300).raise_for_status()
    return found.json()["choices"][0]["message"]["content"]


def converse(
    url: str, number: int, coefficient: float, talks: dict[tuple[int, float], Talk]
) -> None:
    talk: Talk = []
    for turn in range(TURNS):
        question = neutral_prompts()[number * TURNS + turn]
        talk.append({"role": "user", "content": question})
        said = reply(url, talk, coefficient, seed=turn)
        talk.append({"role": "assistant", "content": said or "…"})
    talks[number, coefficient] = talk


def behind(loaded: LoadedModel, talk: Talk, said: str) -> float:
    """The most nats that a token of a reply is behind the model's own choice, without steering."""
    prompt = loaded.chat.prompt_ids(talk)
    ids = loaded.tokenizer(said, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = (
            loaded.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].float()
        )
    chosen = logits.gather(1, torch.tensor(ids)[:, None])[:, 0]
    return float((logits.max(-1).values - chosen).max())


def test_ten_steered_turns_keep_trait_and_coherence_and_leave_no_trace() -> None:
    """Steered and unsteered conversations run side by side. The steered ones show the trait more,
    in their last three turns as well; and what is said next without steering is what the model
    says to that text."""
    loaded = load_model("smollm2")
    talks: Talks = {}
    settings = ServeConfig(name="smollm2", rows=2 * CONVERSATIONS)
    with serving(loaded, {"sycophantic": load_vector("sycophantic")}, settings) as (url, _):
        threads = [
            threading.Thread(target=converse, args=(url, number, coefficient, talks))
            for number in range(CONVERSATIONS)
            for coefficient in (0.0, 2.0)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        goes_on = [*talks[0, 2.0], {"role": "user", "content": "How was your day?"}]
        unsteered = reply(url, goes_on, 0.0, temperature=0)
    # Batches round differently, so a tie may fall either way.
    assert behind(loaded, goes_on, unsteered) < 0.5

    spec, judge = load_trait("sycophantic")[0], ContrastJudge(loaded)
    means = {}
    for coefficient in (0.0, 2.0):
        for part, turns in (("first", range(3)), ("last", range(TURNS - 3, TURNS))):
            answers = [
                Answer(
                    talks[n, coefficient][2 * turn]["content"],
                    talks[n, coefficient][2 * turn + 1]["content"],
                )
                for n in range(CONVERSATIONS)
                for turn in turns
            ]
            scores = [s for s in judge.score(spec, answers) if s.state == "scored"]
            means[coefficient, part] = (
                float(np.mean([s.log_odds for s in scores])),
                float(np.mean([s.coherence for s in scores])),
            )
    print(means)
    gained = {part: means[2.0, part][0] - means[0.0, part][0] for part in ("first", "last")}
    # Eighteen answers a part: its gain varies by about half a nat from run to run.
    assert gained["last"] > 0.5, means
    assert gained["first"] + gained["last"] > 2, means
    assert means[2.0, "last"][1] > 75, means
