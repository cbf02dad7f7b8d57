"""Contrast scores equal plain arithmetic on full logits, and nothing judges itself."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from tiny_models import THINKING_TEMPLATE
from torch import Tensor

from personavec import LoadedModel, TraitSpec, wrap_model
from personavec.errors import UsageError
from personavec.judges import Answer, ContrastJudge, Score
from personavec.judges.contrast import JUDGED_TOKENS, judge_pairs, trait_score
from personavec.model import chat
from personavec.traits.spec import ExampleAnswers

PAIRS = [{"pos": f"Be {word}.", "neg": f"Never be {word}."} for word in ("odd", "queer", "strange")]


def answer(question: str, ids: tuple[int, ...], **more: Any) -> Answer:
    """One that the judging model wrote itself: its ids are read, not its text."""
    return Answer(question, "", response_ids=ids, **more)


def judge(loaded: LoadedModel) -> ContrastJudge:
    return ContrastJudge(loaded, wrote_answers=True)


def make_spec(*, judges: bool, pairs: int = 3) -> TraitSpec:
    return TraitSpec.model_validate(
        {
            "name": "odd",
            "description": "Being odd.",
            "instruction": PAIRS[:pairs],
            "judge_instruction": [{"pos": "Odd!", "neg": "Even!"}, {"pos": "1", "neg": "2"}]
            if judges
            else [],
            "questions": {"extraction": ["A?", "B?"], "evaluation": ["C?", "D?"]},
        }
    )


@torch.inference_mode()
def plain_logprobs(
    loaded: LoadedModel, prompt: tuple[int, ...], response: tuple[int, ...]
) -> Tensor:
    """One text, one forward, the whole vocabulary's softmax in float64."""
    logits = loaded.model(input_ids=torch.tensor([[*prompt, *response]])).logits[0].double()
    predicting = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return predicting.gather(-1, torch.tensor(response)[:, None])[:, 0].float()


@pytest.mark.parametrize("judges", [True, False])
def test_log_odds_are_the_mean_over_pairs_of_the_difference(
    loaded: LoadedModel, judges: bool
) -> None:
    """Recomputed with plain forwards; without judge pairs the rollout's own pair is left out."""
    spec = make_spec(judges=judges)
    response = tuple(b"It is what it is, mostly.")
    asked = answer("Why?", response, system=PAIRS[1]["pos"], pair=1)
    [score] = judge(loaded).score(spec, [asked])
    pairs = spec.judge_instruction if judges else (spec.instruction[0], spec.instruction[2])

    def total(system: str) -> float:
        prompt = tuple(loaded.chat.prompt_ids(chat("Why?", system)))
        return float(plain_logprobs(loaded, prompt, response).sum())

    expected = sum(total(p.pos) - total(p.neg) for p in pairs) / len(pairs)
    assert score.log_odds == pytest.approx(expected, abs=1e-3)
    assert sum(score.log_odds_per_token) == pytest.approx(expected, abs=1e-2)
    assert score.trait_score == pytest.approx(100 / (1 + math.exp(-expected)), abs=1e-2)


def test_only_the_first_64_tokens_are_judged(llama: LoadedModel) -> None:
    """What comes after them changes no score."""
    spec, start = make_spec(judges=True), tuple(range(100, 100 + JUDGED_TOKENS))
    a, b = judge(llama).score(spec, [answer("Why?", start + (5,) * 9), answer("Why?", start)])
    assert a == b
    assert len(a.log_odds_per_token) == JUDGED_TOKENS


def test_company_changes_no_score_and_an_empty_response_has_none(llama: LoadedModel) -> None:
    """Judged among others, with an empty one in the middle; missing is None, never 0."""
    spec = make_spec(judges=True)
    answers = [answer(f"{n}?", tuple(range(n))) for n in (9, 0, 30, 2)]
    together = judge(llama).score(spec, answers)
    assert together[1] == Score("empty")
    for asked, score in zip(answers, together, strict=True):
        [alone] = judge(llama).score(spec, [asked])
        if score.log_odds is not None:
            assert score.log_odds == pytest.approx(alone.log_odds, abs=1e-3)
            assert score.coherence == pytest.approx(alone.coherence, abs=1e-2)


def test_a_single_pair_without_judge_pairs_cannot_judge_itself() -> None:
    """Its own pair is all there is for a rollout of pair 0; an outsider's answer may use it."""
    spec = make_spec(judges=False, pairs=1)
    with pytest.raises(UsageError, match="judge_instruction"):
        judge_pairs(spec, 0)
    assert judge_pairs(spec, None) == spec.instruction


def own_logprobs(loaded: LoadedModel, asked: Answer) -> tuple[float, ...]:
    """What generation gives, as it is kept."""
    prompt = tuple(loaded.chat.prompt_ids(chat(asked.question, asked.system, asked.earlier)))
    found = plain_logprobs(loaded, (*prompt, *asked.thinking_ids), asked.response_ids or ())
    return tuple(round(float(logprob), 6) for logprob in found[:JUDGED_TOKENS])


def test_logprobs_from_generation_spare_a_reading_and_change_no_score(
    loaded: LoadedModel,
) -> None:
    """One of seven prompts less, and the same scores; without them as before."""
    spec = make_spec(judges=False)
    asked = [
        answer("Why?", tuple(range(90, 90 + n)), system="Be odd.", earlier=(("A?", "B."),))
        for n in (3, 30, 80)
    ]
    spared = [replace(each, logprobs=own_logprobs(loaded, each)) for each in asked]
    read: list[int] = []
    embedding = loaded.model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda m, args, out: read.append(args[0].numel()))
    found = judge(loaded).score(spec, spared)
    fewer = sum(read)
    read.clear()
    expected = judge(loaded).score(spec, asked)
    handle.remove()
    assert fewer < sum(read)
    for score, plain in zip(found, expected, strict=True):
        assert score.coherence == pytest.approx(plain.coherence, rel=1e-3)
        assert score.log_odds == pytest.approx(plain.log_odds, abs=1e-3)


def test_logprobs_are_used_only_by_the_model_that_wrote_the_response(llama: LoadedModel) -> None:
    """And only if they are of every judged token. Better ones show where they are used."""
    spec, ids = make_spec(judges=True), tuple(b"So it goes, as it has always gone.")
    plain, wrong = answer("Why?", ids), answer("Why?", ids, logprobs=(-1.0,) * len(ids))
    [used] = judge(llama).score(spec, [wrong])
    [read] = judge(llama).score(spec, [plain])
    assert used.coherence > read.coherence + 5
    few = replace(wrong, logprobs=wrong.logprobs[1:])
    for other, asked in ((judge(llama), few), (ContrastJudge(llama), wrong)):
        text = replace(asked, response=llama.chat.decode(ids))
        [found] = other.score(spec, [text])
        [expected] = other.score(spec, [replace(text, logprobs=())])
        assert found == expected


def test_a_thinking_models_logprobs_count_after_the_thought_that_it_wrote(
    fresh: Callable[..., LoadedModel],
) -> None:
    """An answer that is given closes an empty thought first, which generation did not."""
    base = fresh("llama")
    base.tokenizer.chat_template = THINKING_TEMPLATE
    thinker = wrap_model(base.model, base.tokenizer, name="thinker")
    spec, ids = make_spec(judges=True), tuple(b"So it goes, as it has always gone.")
    thought = tuple(thinker.chat.marked_ids("<think>Hm.</think>\n\n"))
    wrote, gave = answer("Why?", ids, thinking_ids=thought), answer("Why?", ids)
    for asked, is_used in ((wrote, True), (gave, False)):
        [plain] = judge(thinker).score(spec, [asked])
        [found] = judge(thinker).score(
            spec, [replace(asked, logprobs=own_logprobs(thinker, asked))]
        )
        assert found.coherence == pytest.approx(plain.coherence, rel=1e-3)
        [wrong] = judge(thinker).score(spec, [replace(asked, logprobs=(-1.0,) * len(ids))])
        assert (wrong.coherence > plain.coherence + 5) == is_used


def test_the_judges_prompts_are_read_once_for_all_groups(llama: LoadedModel) -> None:
    """A second group about another question reads only what differs, though it asks one alone."""
    spec = make_spec(judges=True)
    long = tuple(
        p.model_copy(update={"pos": "Odd, " * 30, "neg": "Even, " * 30})
        for p in spec.judge_instruction[:1]
    )
    spec = spec.model_copy(update={"judge_instruction": long})
    one, read = judge(llama), list[int]()
    embedding = llama.model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda m, args, out: read.append(args[0].numel()))
    counts = []
    for question in ("Why?", "How so?"):
        read.clear()
        one.score(spec, [answer(question, (1, 2))])
        counts.append(sum(read))
    handle.remove()
    assert counts[0] > 2 * 150 > 150 > counts[1]


def test_examples_stand_as_earlier_turns(llama: LoadedModel) -> None:
    """Recomputed with plain forwards over prompts that hold them; they change the score."""
    spec, response = make_spec(judges=True), tuple(b"So it goes.")
    example = ExampleAnswers(question="Odd?", pos="Very odd.", neg="Not at all.")
    pairs = tuple(p.model_copy(update={"examples": (example,)}) for p in spec.judge_instruction)
    with_examples = spec.model_copy(update={"judge_instruction": pairs})
    [score] = judge(llama).score(with_examples, [answer("Why?", response)])
    [plain] = judge(llama).score(spec, [answer("Why?", response)])

    def total(system: str, shown: str) -> float:
        prompt = tuple(llama.chat.prompt_ids(chat("Why?", system, (("Odd?", shown),))))
        return float(plain_logprobs(llama, prompt, response).sum())

    both = [total(p.pos, "Very odd.") - total(p.neg, "Not at all.") for p in pairs]
    assert score.log_odds == pytest.approx(sum(both) / 2, abs=1e-3)
    assert score.log_odds != pytest.approx(plain.log_odds, abs=1e-3)


def test_an_answer_beyond_the_context_is_unscored_and_says_why(llama: LoadedModel) -> None:
    """The answers beside it are scored."""
    spec = make_spec(judges=True)
    long, short = judge(llama).score(spec, [answer("x" * 2000, (1, 2)), answer("Why?", (1, 2))])
    assert (long.state, short.state) == ("unscored", "scored")
    assert "context" in (long.why or "")
    assert long.log_odds is None


def test_judge_pairs_are_used_where_there_are_some() -> None:
    """Whatever pair the rollout came from."""
    spec = make_spec(judges=True)
    assert {judge_pairs(spec, pair) for pair in (None, 0, 2)} == {spec.judge_instruction}


@given(st.floats(-2000, 2000))
def test_trait_score_is_the_sigmoid(log_odds: float) -> None:
    """0 to 100 without overflow, and symmetric about 50."""
    assert 0 <= trait_score(log_odds) <= 100
    assert trait_score(log_odds) + trait_score(-log_odds) == pytest.approx(100)
    if abs(log_odds) < 500:
        assert trait_score(log_odds) == pytest.approx(100 / (1 + math.exp(-log_odds)))
