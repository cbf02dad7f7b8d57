"""Token log-likelihoods equal plain arithmetic on full logits."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from personavec import LoadedModel
from personavec.errors import UsageError
from personavec.model import ScoringJob, token_logprobs

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
