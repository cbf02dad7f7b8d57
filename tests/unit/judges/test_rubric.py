"""Rubric judges: expected numbers recomputed by hand, and no number where there is none."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from personavec import LoadedModel, TraitSpec
from personavec.errors import SpecError
from personavec.judges import (
    Answer,
    ApiRubricJudge,
    Endpoint,
    Judge,
    LocalRubricJudge,
    score_file,
    trait_rubric,
)
from personavec.judges.numbers import REFUSAL, NumberTree, from_probabilities, parse
from personavec.judges.rubric import COHERENCE_RUBRIC, fill
from personavec.model import chat
from personavec.progress import Progress

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


# Rubrics


def test_texts_with_braces_are_filled_in_as_they_are() -> None:
    filled = fill("{question} | {answer} | {other} {}", "{answer}", "a {question} {0} {{x}} \\1")
    assert filled == "{answer} | a {question} {0} {{x}} \\1 | {other} {}"


@pytest.mark.parametrize(
    ("rubric", "message"), [("", "no rubric"), (" \n", "no rubric"), ("Rate it.", "no {answer}")]
)
def test_a_spec_without_a_usable_rubric_says_so(rubric: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        trait_rubric(make_spec(rubric))


# Numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("85", 85.0),
        (" 0.\n", 0.0),
        ("Score: 7.5", 7.5),
        ("85/100", 85.0),
        ("I would say 40 out of 100.", 40.0),
        ("100/100", 100.0),
        ("between 40 and 60", None),
        ("From 0 to 100, it is 85", None),
        ("101", None),
        ("-5", None),
        ("REFUSAL", REFUSAL),
        ("none", None),
        ("", None),
    ],
)
def test_replies_are_read_or_not_at_all(text: str, value: Any) -> None:
    assert parse(text) == value


def tree(*ways: list[dict[str, float]]) -> NumberTree:
    """From the token lists of replies, each going on with its likeliest token."""
    grown = NumberTree()
    for lists in ways:
        content = [
            {
                "token": max(tokens, key=lambda t: tokens[t]),
                "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in tokens.items()],
            }
            for tokens in lists
        ]
        grown.add({"logprobs": {"content": content}}, room=4)
    return grown


def test_a_list_with_numbers_of_several_digits_is_read_as_it_is() -> None:
    numbers, still_open = tree(
        [{"85": 0.5, " 85": 0.2, "8": 0.1, "9.5": 0.1, "101": 0.05}]
    ).numbers()
    assert numbers == pytest.approx({85: 0.7, 8: 0.1})
    assert still_open == 0


def test_the_first_digit_is_never_taken_for_the_number() -> None:
    """Behind 8, a 5 is likelier than the end."""
    grown = tree([{"8": 0.6, "9": 0.2, "x": 0.2}])
    assert grown.numbers() == ({}, pytest.approx(0.8))
    assert grown.is_open()
    grown.add(
        {
            "logprobs": {
                "content": [
                    {"token": "8", "top_logprobs": [{"token": "8", "logprob": math.log(0.6)}]},
                    {"token": "5", "top_logprobs": [{"token": "5", "logprob": math.log(0.9)}]},
                ]
            }
        },
        room=4,
    )
    numbers, still_open = grown.numbers()
    assert numbers == pytest.approx({85: 0.54, 8: 0.06})
    assert still_open == pytest.approx(0.2)


def test_ten_may_be_the_beginning_of_a_hundred() -> None:
    """Where numbers go digit by digit, until a reply stops there or goes on."""
    assert tree([{"1": 1.0}, {"0": 1.0}]).numbers() == ({1: 0.0}, 1.0)
    grown = tree([{"1": 1.0}, {"0": 1.0}])
    grown.ended.add("10")
    assert grown.numbers() == ({1: 0.0, 10: 1.0}, 0.0)
    grown = tree([{"1": 1.0}, {"0": 1.0}, {"0": 0.75, "</s>": 0.25}])
    assert grown.numbers()[0] == pytest.approx({100: 0.75, 10: 0.25, 1: 0.0})


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


def test_states_come_from_where_the_probability_lies() -> None:
    assert from_probabilities({10: 0.1, 20: 0.3}, 0.1).value == pytest.approx(17.5)
    assert from_probabilities({10: 0.4}, 0.5).state == "refusal"
    few = from_probabilities({10: 0.2}, 0.1)
    assert (few.state, few.value, few.mass) == ("unscored", None, 0.2)
    unclear = from_probabilities({10: 0.2}, 0.0, open_mass=0.5)
    assert (unclear.state, unclear.value) == ("unscored", None)


# Behind an endpoint


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


# On a transformers model


@torch.inference_mode()
def plain_probabilities(loaded: LoadedModel, prompt: list[int], answers: list[list[int]]) -> Any:
    """Answers of one length behind a prompt: full forwards, no cache, no padding, in float64."""
    ids = torch.tensor([[*prompt, *answer] for answer in answers])
    steps = loaded.model(input_ids=ids).logits[:, len(prompt) - 1 : -1].double().log_softmax(-1)
    return steps.gather(-1, ids[:, len(prompt) :, None]).sum((1, 2)).exp()


def test_the_local_judge_gives_the_exact_expected_number(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the 101 answers in a forward of its own; the byte tokenizer splits numbers."""
    monkeypatch.setattr("personavec.judges.local_rubric._LEAST_LOCAL_MASS", 0.0)
    answers = [*ANSWERS[:2], Answer("Why, then?", ""), Answer("Really?", "Much longer than those.")]
    local = LocalRubricJudge(llama, batch_tokens=400)
    scores = local.score(make_spec(), answers)
    assert scores[2].state == "empty"
    for answer, score in zip(answers, scores, strict=True):
        for rubric, found in (
            (RUBRIC, score.trait_score),
            (COHERENCE_RUBRIC, score.coherence),
        ):
            if score.state == "empty":
                continue
            prompt = llama.chat.prompt_ids(chat(fill(rubric, answer.question, answer.response)))
            (stop,) = llama.stop_ids
            ends = [[*llama.chat.response_ids(str(n)), stop] for n in range(101)]
            numbers = torch.cat(
                [
                    plain_probabilities(llama, prompt, of_one_length)
                    for of_one_length in (ends[:10], ends[10:100], ends[100:])
                ]
            )
            refusal = plain_probabilities(llama, prompt, [llama.chat.response_ids(REFUSAL)])[0]
            if rubric == RUBRIC:
                assert score.mass == pytest.approx(float(numbers.sum()), rel=1e-3)
                assert (score.state == "refusal") == (refusal > numbers.sum())
            expected = float((numbers * torch.arange(101)).sum() / numbers.sum())
            if found is not None:
                assert found == pytest.approx(expected, rel=1e-3)


def test_what_does_not_fit_the_local_model_is_unscored(llama: LoadedModel) -> None:
    (score,) = LocalRubricJudge(llama).score(make_spec(), [Answer("Q?", "long " * 300)])
    assert (score.state, score.trait_score) == ("unscored", None)
    assert score.why == "longer than the judging model's context"


def test_judges_are_judges(llama: LoadedModel, judge: ApiRubricJudge) -> None:
    for one in (LocalRubricJudge(llama), judge):
        assert isinstance(one, Judge)
        assert json.dumps(one.identity())
