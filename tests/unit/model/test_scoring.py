"""Token log-likelihoods equal plain arithmetic on full logits."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from personavec import LoadedModel
from personavec.errors import UsageError
from personavec.model import Beginnings, ScoringJob, token_logprobs

same_examples = settings(derandomize=True, max_examples=20, deadline=None)


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
def jobs_with_shared_prompts(draw: st.DrawFn) -> list[ScoringJob]:
    prompts = draw(st.lists(ids, min_size=1, max_size=4))
    job = st.tuples(st.sampled_from(prompts), ids)
    return draw(st.lists(job, min_size=1, max_size=8))


@same_examples
@given(jobs=jobs_with_shared_prompts(), budget=st.integers(1, 100))
def test_token_logprobs_equal_one_plain_forward_a_text(
    loaded: LoadedModel, jobs: list[ScoringJob], budget: int
) -> None:
    """Shared prompts, mixed lengths, any budget: each job's own numbers in the jobs' order."""
    found = token_logprobs(loaded, jobs, batch_tokens=budget)
    for (prompt, response), logprobs in zip(jobs, found, strict=True):
        torch.testing.assert_close(
            logprobs, plain_logprobs(loaded, prompt, response), atol=1e-4, rtol=1e-4
        )


#: A system prompt, then one of two lists of examples, then one of three questions.
SYSTEM = tuple(range(30, 75))
EXAMPLES = [tuple(range(100 + i, 150 + i)) for i in (0, 7)]
QUESTIONS = [(60, 61, 62, 63), (60, 61, 70), (80,) * 9]
NESTED: list[ScoringJob] = [
    (SYSTEM + examples + question, tuple(range(3, 3 + n)))
    for examples in EXAMPLES
    for question in QUESTIONS
    for n in (5, 2)
]


@pytest.mark.parametrize("budget", [0, 1 << 14, 1 << 29])
@pytest.mark.parametrize("batch_tokens", [150, 12288])
def test_nested_beginnings_change_nothing(
    loaded: LoadedModel, budget: int, batch_tokens: int
) -> None:
    """Beside prompts that share none, and also when a second call finds them kept."""
    jobs = [*NESTED, ((1, 2, 3), (4, 5)), (SYSTEM, (6, 7)), ((9,) * 90, (8,))]
    beginnings = Beginnings(budget)
    for some in (jobs, jobs[::-1]):
        found = token_logprobs(loaded, some, batch_tokens=batch_tokens, beginnings=beginnings)
        for (prompt, response), logprobs in zip(some, found, strict=True):
            expected = plain_logprobs(loaded, prompt, response)
            torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=1e-4)


def fed(loaded: LoadedModel, jobs: Sequence[ScoringJob], beginnings: Beginnings, **more) -> int:
    """How many tokens the model reads, padding included."""
    seen: list[int] = []
    embedding = loaded.model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda m, args, out: seen.append(args[0].numel()))
    token_logprobs(loaded, jobs, beginnings=beginnings, **more)
    handle.remove()
    return sum(seen)


def test_a_beginning_is_read_once_for_all_calls_and_a_prompt_once_for_its_responses(
    llama: LoadedModel,
) -> None:
    """The last token of a response is not read; here all are padded to the longest."""
    kept = Beginnings()
    following = len(EXAMPLES) * len(QUESTIONS) * max(map(len, QUESTIONS)) + len(NESTED) * (5 - 1)
    assert fed(llama, NESTED, kept) == 45 + 2 * 50 + following
    assert fed(llama, NESTED, kept) == following


def test_what_is_shared_with_prompts_of_other_calls_is_kept_for_them(llama: LoadedModel) -> None:
    """Two jobs after one prompt, then one after another: the examples are read once."""
    kept = Beginnings()
    others = [SYSTEM + EXAMPLES[0] + question for question in QUESTIONS]
    assert fed(llama, NESTED[:2], kept, others=others) == 95 + 4 + 2 * 4
    assert fed(llama, NESTED[2:3], kept, others=others) == 3 + 4


def test_responses_of_unlike_lengths_are_not_padded_to_the_longest(llama: LoadedModel) -> None:
    """Once a batch is wide, whatever the prompts."""
    jobs = [((p, 1, 2), (5,) * n) for n in (64, 8) for p in range(40)]
    assert fed(llama, jobs, Beginnings()) == 40 * 3 + 40 * 63 + 40 * 7


@pytest.mark.parametrize("job", [((), (1,)), ((1,), ()), ((1,) * 1000, (1,) * 100)])
def test_what_cannot_be_scored_is_refused(llama: LoadedModel, job: ScoringJob) -> None:
    """An empty prompt or response, and a text longer than the context of 1024."""
    with pytest.raises(UsageError, match=r"empty|context of 1024"):
        token_logprobs(llama, [((1,), (2,)), job])


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
