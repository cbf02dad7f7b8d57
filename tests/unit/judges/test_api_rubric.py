"""The API rubric judge against models of known probabilities."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from personavec import TraitSpec
from personavec.judges import (
    Answer,
    ApiRubricJudge,
    Endpoint,
    score_file,
)
from personavec.judges.numbers import NumberTree
from personavec.judges.rubric import COHERENCE_RUBRIC, fill
from personavec.model import chat
from personavec.progress import Progress

same_examples = settings(derandomize=True, max_examples=60, deadline=None)
same_examples = settings(derandomize=True, max_examples=60, deadline=None)
RUBRIC = "Trait? Q: {question} A: {answer}"
ANSWERS = [Answer("Why?", f"Answer {i}.") for i in range(3)]


def make_spec(rubric: str = RUBRIC) -> TraitSpec:
    return TraitSpec.model_validate(
        {
            "name": "odd",
            "description": "Being odd.",
            "instruction": [{"pos": "Odd.", "neg": "Even."}],
            "questions": {"extraction": ["A?", "B?"], "evaluation": ["C?", "D?"]},
            "rubric": rubric,
        }
    )


@pytest.fixture
def judge(server: Any, tmp_path: Path) -> ApiRubricJudge:
    endpoint = Endpoint("parrot", server.url, retries=1, cache=tmp_path / "cache")
    return ApiRubricJudge(endpoint)


class DigitModel:
    """Answers with a number by known probabilities, in whole tokens or digit by digit."""

    def __init__(
        self,
        probabilities: list[float],
        refusal: float,
        *,
        as_tokens: bool,
        ends_are_listed: bool = True,
    ):
        self.probabilities, self.refusal, self.as_tokens = probabilities, refusal, as_tokens
        self.ends_are_listed = ends_are_listed

    def prefixes(self) -> list[str]:
        every = [""]
        if not self.as_tokens:
            every += [str(n) for n in range(101)]
        return [prefix for prefix in every if self.mass(prefix)]

    def mass(self, prefix: str) -> float:
        """Of the numbers that begin so."""
        return sum(p for n, p in enumerate(self.probabilities) if str(n).startswith(prefix))

    def digits_after(self, prefix: str) -> dict[str, float]:
        if self.as_tokens:
            return {str(n): p for n, p in enumerate(self.probabilities) if p}
        total = self.mass(prefix)
        after = {d: self.mass(prefix + d) / total for d in "0123456789" if self.mass(prefix + d)}
        return after if prefix != "0" else {}

    def list_after(self, prefix: str) -> dict[str, float]:
        """The twenty likeliest tokens, with the end of the turn."""
        found = dict(self.digits_after(prefix))
        share = 1 - self.refusal if prefix == "" else 1.0
        found = {t: p * share for t, p in found.items()}
        if prefix == "":
            found["REF"] = self.refusal
        else:
            found[""] = max(0.0, 1 - sum(found.values()))
        likeliest = sorted(found.items(), key=lambda item: -item[1])[:20]
        return {t: p for t, p in likeliest if p > 0}

    def reply(self, body: dict[str, Any], completion: Callable[..., Any]) -> dict[str, Any]:
        """One sampled reply with its lists, keyed by the seed; REFUSAL stays out of it."""
        rng = random.Random(body["seed"])
        prefix, tokens, lists = "", [], []
        for _ in range(body["max_tokens"]):
            after = self.list_after(prefix)
            following = {t: p for t, p in after.items() if t != "REF"}
            token = rng.choices(list(following), list(following.values()))[0]
            if token == "" and not self.ends_are_listed:
                break
            lists.append(after)
            tokens.append(token)
            if token == "" or self.as_tokens:
                break
            prefix += token
        made = completion("".join(tokens), lists)
        for entry, token in zip(made["choices"][0]["logprobs"]["content"], tokens, strict=True):
            entry["token"] = token
        return made


def bell(middle: float, width: float) -> list[float]:
    weights = [math.exp(-(((n - middle) / width) ** 2)) for n in range(101)]
    return [w / sum(weights) for w in weights]


@same_examples
@given(
    weights=st.lists(st.integers(0, 9), min_size=101, max_size=101).filter(any),
    as_tokens=st.booleans(),
)
def test_all_lists_together_give_back_the_distribution(weights: list[int], as_tokens: bool) -> None:
    """Whether numbers are tokens or go digit by digit, from lists without a limit."""
    model = DigitModel([w / sum(weights) for w in weights], 0.0, as_tokens=as_tokens)
    grown = NumberTree({prefix: model.digits_after(prefix) for prefix in model.prefixes()})
    numbers, still_open = grown.numbers()
    assert still_open == 0
    for n, weight in enumerate(weights):
        assert numbers.get(n, 0) == pytest.approx(weight / sum(weights))


@pytest.mark.parametrize("middle", [0, 8, 50, 85, 100])
def test_whole_numbers_take_one_call_and_digits_are_followed(
    server: Any, chat_completion: Callable[..., Any], judge: ApiRubricJudge, middle: float
) -> None:
    """Both tokenizers give the expected number; 85 is not read as 8."""
    probabilities = bell(middle, 3)
    expected = sum(n * p for n, p in enumerate(probabilities))
    for as_tokens, ends_are_listed, tolerance, calls in (
        (True, False, 0.1, 2),
        (False, True, 1.0, 34),
        (False, False, 1.0, 34),
    ):
        model = DigitModel(probabilities, 0.1, as_tokens=as_tokens, ends_are_listed=ends_are_listed)
        server.reply = lambda body, times, model=model: model.reply(body, chat_completion)
        before = len(server.seen)
        name = f"{as_tokens} {ends_are_listed}"
        fresh = ApiRubricJudge(Endpoint(name, server.url, cache=judge.endpoint.cache))
        (score,) = fresh.score(make_spec(), ANSWERS[:1])
        assert score.state == "scored"
        assert score.trait_score == pytest.approx(expected, abs=tolerance)
        assert score.coherence == pytest.approx(expected, abs=tolerance)
        assert score.mass == pytest.approx(0.9, abs=0.01)
        assert score.spread is None
        assert 2 <= len(server.seen) - before <= calls
    first = server.seen[0]
    assert (first["max_tokens"], first["logprobs"], first["top_logprobs"]) == (1, True, 20)
    assert first["messages"] == chat(fill(RUBRIC, ANSWERS[0].question, ANSWERS[0].response))
    assert server.seen[1]["messages"][0]["content"].startswith(COHERENCE_RUBRIC[:40])


@pytest.mark.parametrize("as_tokens", [True, False])
def test_a_refusal_and_a_reply_without_a_number_stay_what_they_are(
    server: Any,
    chat_completion: Callable[..., Any],
    judge: ApiRubricJudge,
    as_tokens: bool,
) -> None:
    shares = {"0": 0.05, "1": 0.6, "2": 0.9}

    def reply(body: dict[str, Any], times: int) -> Any:
        text = body["messages"][0]["content"]
        if not text.startswith("Trait?"):
            return DigitModel(bell(90, 1), 0.0, as_tokens=as_tokens).reply(body, chat_completion)
        share = shares[text[-2]]
        if share == 0.9:
            lists = [{"Hello": 0.8, "7": 0.1, "70": 0.05}]
            return chat_completion("Hello", lists)
        return DigitModel(bell(40, 1), share, as_tokens=as_tokens).reply(body, chat_completion)

    server.reply = reply
    scored, refused, unscored = judge.score(make_spec(), ANSWERS)
    assert scored.trait_score == pytest.approx(40, abs=0.5)
    assert (refused.state, refused.trait_score) == ("refusal", None)
    assert (unscored.state, unscored.trait_score) == ("unscored", None)
    assert unscored.why == "only 15% of the reply is a number"
    assert refused.coherence == pytest.approx(90, abs=0.5)


@pytest.mark.parametrize("how", ["left out", "refused"])
def test_without_token_lists_replies_are_sampled_and_their_spread_is_told(
    server: Any, chat_completion: Callable[..., Any], judge: ApiRubricJudge, how: str
) -> None:
    """Only one call is spent on finding out."""
    refused = (400, {}, {"error": {"message": "logprobs are not supported by this model"}})

    def reply(body: dict[str, Any], times: int) -> Any:
        if "logprobs" in body:
            return refused if how == "refused" else chat_completion("8")
        return chat_completion("REFUSAL" if body["seed"] == 7 else str(60 + 5 * body["seed"]))

    server.reply = reply
    scores = judge.score(make_spec(), ANSWERS)
    values = [60.0 + 5 * seed for seed in range(7)]
    mean = sum(values) / 7
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / 7)
    for score in scores:
        assert score.trait_score == pytest.approx(mean)
        assert score.spread == pytest.approx(spread)
        assert score.mass == pytest.approx(7 / 8)
    assert sum("logprobs" in body for body in server.seen) == 1


def test_a_model_that_thinks_first_gets_room_for_it(
    server: Any, chat_completion: Callable[..., Any], judge: ApiRubricJudge
) -> None:
    def reply(body: dict[str, Any], times: int) -> Any:
        made = chat_completion("30" if body["max_tokens"] > 1000 else "")
        made["choices"][0]["finish_reason"] = "stop" if body["max_tokens"] > 1000 else "length"
        return made

    server.reply = reply
    assert judge.score(make_spec(), ANSWERS[:1])[0].trait_score == 30


def test_one_answer_too_long_and_one_failure_leave_the_others(
    server: Any, chat_completion: Callable[..., Any], judge: ApiRubricJudge, tmp_path: Path
) -> None:
    """The failure is asked for again by the next run, the rest is not."""
    troubles = {
        "1": (400, {}, {"error": {"message": "exceeds the available context size (64 tokens)"}}),
        "2": (500, {}, {"error": {"message": "out of order"}}),
    }
    model = DigitModel(bell(70, 1), 0.0, as_tokens=True)

    def reply(body: dict[str, Any], times: int) -> Any:
        text = body["messages"][0]["content"]
        trouble = troubles.get(text[-2]) if text.startswith("Trait?") else None
        return trouble or model.reply(body, chat_completion)

    server.reply = reply
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"question": a.question, "answer": a.response} for a in ANSWERS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run() -> list[str]:
        score_file(lambda: judge, make_spec(), file, out, progress=Progress(quiet=True))
        return [json.loads(line)["state"] for line in out.read_text().splitlines()]

    states = run()
    assert states[0] == "scored"
    assert states[1].startswith("longer than the endpoint's context")
    assert states[2] == "failed: 500: out of order"
    troubles.clear()
    before = len(server.seen)
    assert run() == [*states[:2], "scored"]
    assert len(server.seen) == before + 1


def test_an_empty_answer_is_a_state_and_the_texts_of_missing_values_are_answers(
    server: Any, chat_completion: Callable[..., Any], judge: ApiRubricJudge
) -> None:
    model = DigitModel(bell(70, 1), 0.0, as_tokens=True)
    server.reply = lambda body, times: model.reply(body, chat_completion)
    answers = [Answer("Q?", text) for text in ("None", "N/A", "", "null")]
    states = [score.state for score in judge.score(make_spec(), answers)]
    assert states == ["scored", "scored", "empty", "scored"]
    assert judge.estimate(make_spec(), answers).cached == 6
