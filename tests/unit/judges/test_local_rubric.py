"""The local rubric judge: the expected number, recomputed by plain forwards."""

from typing import Any

import pytest
import torch

from personavec import LoadedModel, TraitSpec
from personavec.judges import (
    Answer,
    LocalRubricJudge,
)
from personavec.judges.numbers import REFUSAL
from personavec.judges.rubric import COHERENCE_RUBRIC, fill
from personavec.model import chat

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
