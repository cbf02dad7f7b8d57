"""Scores equal plain arithmetic on full logits, and nothing judges itself."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from personavec import LoadedModel, TraitSpec
from personavec.errors import UsageError
from personavec.judges import Answer, ContrastJudge, LocalRubricJudge, Score, last_answer
from personavec.judges.coherence import coherence, repeated_share
from personavec.judges.contrast import JUDGED_TOKENS, judge_pairs, trait_score
from personavec.model import Job, chat, token_logprobs
from personavec.traits.spec import ExampleAnswers

same_examples = settings(derandomize=True, max_examples=20, deadline=None)
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


ids = st.lists(st.integers(0, 255), min_size=1, max_size=16).map(tuple)


@st.composite
def jobs_with_shared_prompts(draw: st.DrawFn) -> list[Job]:
    prompts = draw(st.lists(ids, min_size=1, max_size=4))
    job = st.tuples(st.sampled_from(prompts), ids)
    return draw(st.lists(job, min_size=1, max_size=8))


@same_examples
@given(jobs=jobs_with_shared_prompts(), budget=st.integers(1, 100))
def test_token_logprobs_equal_one_plain_forward_a_text(
    loaded: LoadedModel, jobs: list[Job], budget: int
) -> None:
    """Shared prompts, mixed lengths, any budget: each job's own numbers in the jobs' order."""
    found = token_logprobs(loaded, jobs, batch_tokens=budget)
    for (prompt, response), logprobs in zip(jobs, found, strict=True):
        torch.testing.assert_close(
            logprobs, plain_logprobs(loaded, prompt, response), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("job", [((), (1,)), ((1,), ()), ((1,) * 1000, (1,) * 100)])
def test_what_cannot_be_scored_is_refused(llama: LoadedModel, job: Job) -> None:
    """An empty prompt or response, and a text longer than the context of 1024."""
    with pytest.raises(UsageError, match=r"empty|context of 1024"):
        token_logprobs(llama, [((1,), (2,)), job])


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


def test_coherence_is_two_sided() -> None:
    """Fluent text is fine; too unlikely is salad, too likely or repeating is a loop."""
    varied, loop = list(range(40)), [1, 2, 3] * 13
    assert coherence(torch.full((40,), -1.2), varied) > 90
    assert coherence(torch.full((40,), -6.0), varied) < 5
    assert coherence(torch.full((40,), -0.01), varied) < 5
    assert coherence(torch.full((39,), -1.2), loop) < 5
    # A short answer such as "Yes." may be as likely as it likes.
    assert coherence(torch.full((3,), -0.01), [1, 2, 3]) > 90


@given(st.lists(st.integers(0, 3), max_size=30))
def test_repeated_share_counts_trigrams_seen_before(ids: list[int]) -> None:
    """Against a count by hand."""
    seen: set[tuple[int, ...]] = set()
    again = 0
    for i in range(len(ids) - 2):
        gram = tuple(ids[i : i + 3])
        again += gram in seen
        seen.add(gram)
    assert repeated_share(ids) == pytest.approx(again / max(1, len(ids) - 2))


def test_scoring_does_not_depend_on_how_the_model_pads(
    fresh: Callable[..., LoadedModel],
) -> None:
    """What the padding token embeds to is of no consequence."""
    loaded = fresh("llama")
    jobs = [((1, 2, 3), (4, 5, 6, 7)), ((8,), (9,)), ((8,), (9, 10, 11))]
    before = token_logprobs(loaded, jobs)
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[0] += 100
    for a, b in zip(before, token_logprobs(loaded, jobs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


#: Longer than what the judge reads of an answer, in bytes and in tokens.
THOUGHT = "The user asks about this. " * 20
THOUGHTS = [
    f"<think>\n{THOUGHT}\n</think>\n\n{{}}",
    f"<think>{THOUGHT}</think><answer>{{}}</answer>",
    f"[THINK]{THOUGHT}[/THINK]{{}}",
    f"{THOUGHT}</think>\n\n{{}}",
]


@pytest.mark.parametrize("thinks", THOUGHTS)
@pytest.mark.parametrize("kind", [ContrastJudge, LocalRubricJudge])
def test_a_thought_before_an_answer_changes_no_score(
    llama: LoadedModel, kind: type[ContrastJudge] | type[LocalRubricJudge], thinks: str
) -> None:
    """Whatever model reads: the tiny one's template knows no thinking."""
    asked = [("A?", "Fine, and odd."), ("B?", "No."), ("C?", "")]
    spec = make_spec(judges=True).model_copy(update={"rubric": "{question} {answer} Odd?"})
    plain = kind(llama).score(spec, [Answer(q, a) for q, a in asked])
    found = kind(llama).score(spec, [Answer(q, thinks.format(a)) for q, a in asked])
    assert [replace(score, had_thought=False) for score in found] == plain
    assert all(score.had_thought for score in found)
    assert plain[0].state == found[0].state != "empty"


def test_an_answer_that_is_all_thought_is_a_state(llama: LoadedModel) -> None:
    found = judge(llama).score(
        make_spec(judges=True), [Answer("A?", "<think>Hm"), Answer("A?", "Fine.")]
    )
    assert [score.state for score in found] == ["unfinished_thought", "scored"]
    assert found[0].log_odds is None


def test_a_thought_that_was_taken_off_leaves_an_answer_as_it_is(llama: LoadedModel) -> None:
    """It may speak of the marker itself."""
    text = "It ends in </think> then."
    spec = make_spec(judges=True)
    read, cut = judge(llama).score(spec, [Answer("A?", text, thought="Hm."), Answer("A?", text)])
    assert len(read.log_odds_per_token or ()) == len(text)
    assert cut.had_thought


def test_the_last_scored_answer_of_a_conversation_is_judged() -> None:
    """To the last question before it, whatever a tool said in between."""
    found = last_answer(
        [
            {"role": "system", "content": "Be odd."},
            {"role": "user", "content": "A?"},
            {"role": "assistant", "content": "", "tool_calls": [{}], "scored": False},
            {"role": "tool", "content": "7"},
            {"role": "assistant", "content": "Seven.", "reasoning_content": "Hm."},
            {"role": "user", "content": "B?"},
            {"role": "assistant", "content": "Left out.", "scored": False},
        ]
    )
    assert found == Answer("A?", "Seven.", "Be odd.", thought="Hm.")
