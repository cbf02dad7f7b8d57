"""The embedded model behind the server: steering holds over a long conversation, and stays out of
what is not steered."""

import threading
from typing import Any

import httpx2 as httpx
import numpy as np
from generating import generate_batch

from personavec import load_model, load_trait, load_vector
from personavec.judges import Answer, ContrastJudge
from personavec.model.engine import Request, Sampling
from personavec.serve import ServeConfig
from personavec.serve.server import serving
from personavec.traits import neutral_prompts

TURNS, CONVERSATIONS, TOKENS = 10, 12, 32
DOSE = 2.0
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
    """Every two conversations ask the same questions, the second one from the last to the first, so
    that first and last turns differ by nothing but their place."""
    talk: Talk = []
    asked = neutral_prompts()[number // 2 * TURNS : (number // 2 + 1) * TURNS]
    for turn, question in enumerate(reversed(asked) if number % 2 else asked):
        talk.append({"role": "user", "content": question})
        said = reply(url, talk, coefficient, seed=turn)
        talk.append({"role": "assistant", "content": said or "…"})
    talks[number, coefficient] = talk


def test_ten_steered_turns_keep_trait_and_coherence_and_leave_no_trace() -> None:
    """Steered and unsteered conversations run side by side. The last three turns of the steered
    ones show the trait as the first three do, and more than the unsteered ones; and what is said
    next without steering is what the model says to that text."""
    # In bfloat16 replies depend on what they are batched with, by rounding.
    loaded = load_model("smollm2", dtype="float32")
    talks: Talks = {}
    settings = ServeConfig(name="smollm2", rows=2 * CONVERSATIONS)
    with serving(loaded, {"sycophantic": load_vector("sycophantic")}, settings) as (url, _):
        threads = [
            threading.Thread(target=converse, args=(url, number, coefficient, talks))
            for number in range(CONVERSATIONS)
            for coefficient in (0.0, DOSE)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        goes_on = [*talks[0, DOSE], {"role": "user", "content": "What is the capital of France?"}]
        unsteered = reply(url, goes_on, 0.0, temperature=0)
    request = Request("r", tuple(loaded.chat.prompt_ids(goes_on)))
    [expected] = generate_batch(loaded, [request], Sampling(TOKENS, 0.0))
    assert unsteered == loaded.chat.decode(expected.response_ids)

    spec, judge = load_trait("sycophantic")[0], ContrastJudge(loaded)
    means = {}
    for coefficient in (0.0, DOSE):
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
    for part in ("first", "last"):
        assert means[DOSE, part][0] > means[0.0, part][0] + 1, means
    gained = {part: means[DOSE, part][0] - means[0.0, part][0] for part in ("first", "last")}
    assert gained["last"] > gained["first"] / 2, means
    assert means[DOSE, "last"][1] > 75, means
