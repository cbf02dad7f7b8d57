"""Coherence tells ordinary answers of the embedded model from broken ones, on real generations."""

import random

import pytest
import torch
from generating import generate

from personavec import LoadedModel
from personavec.judges.coherence_model import bundled_model
from personavec.judges.coherence_readings import Unread, model_norms, read_both_ways
from personavec.model import Steering, chat
from personavec.model.engine import Request, Sampling
from personavec.traits import load_trait, neutral_prompts

QUESTIONS = neutral_prompts()[:12]
LAYER = 14
Answers = dict[str, tuple[int, ...]]


def answer(
    loaded: LoadedModel,
    steering: tuple[Steering, ...] = (),
    system: str | None = None,
    seed: int = 0,
) -> Answers:
    """Ordinary sampling, 64 tokens at temperature 0.7."""
    requests = [
        Request(q, tuple(loaded.chat.prompt_ids(chat(q, system))), steering) for q in QUESTIONS
    ]
    batches = generate(loaded, requests, Sampling(max_tokens=64, temperature=0.7, seed=seed))
    return {g.id: g.response_ids for batch in batches for g in batch}


def scores(loaded: LoadedModel, answers: Answers, system: str | None = None) -> list[float]:
    """Coherence of each answer under the prompt that it was, or might have been, generated from."""
    unread = [
        Unread(tuple(loaded.chat.prompt_ids(chat(q, system))), ids) for q, ids in answers.items()
    ]
    of_model = model_norms(loaded)
    return [bundled_model().coherence(each, of_model) for each in read_both_ways(loaded, unread)]


def show(what: str, found: list[float]) -> None:
    above, below = sum(s > 75 for s in found), sum(s < 50 for s in found)
    values = ", ".join(f"{s:.0f}" for s in sorted(found))
    print(f"{what}: {above} above 75, {below} below 50 of {len(found)} ({values})")


@pytest.fixture(scope="module")
def ordinary(smollm2: LoadedModel) -> Answers:
    return answer(smollm2)


def test_ordinary_answers_stay_above_75(smollm2: LoadedModel, ordinary: Answers) -> None:
    """All but one of twelve at least: this small model now and then does lose its thread."""
    found = scores(smollm2, ordinary)
    show("ordinary", found)
    assert sum(s > 75 for s in found) >= 11


def test_the_trait_itself_is_no_fault(smollm2: LoadedModel) -> None:
    """Under an eliciting system prompt, which the score reads, answers are as coherent."""
    system = load_trait("humorous")[0].instruction[0].pos
    found = [
        score
        for seed in range(3)
        for score in scores(smollm2, answer(smollm2, system=system, seed=seed), system)
    ]
    show("humorous system prompt", found)
    assert sum(s > 75 for s in found) / len(found) >= 10 / 12


def test_answers_steered_into_collapse_fall_below_50(smollm2: LoadedModel) -> None:
    """A random direction of four times the residual's norm leaves nothing of the model's sense."""
    [[probe]] = generate(
        smollm2,
        [Request("probe", tuple(smollm2.chat.prompt_ids(chat(QUESTIONS[0]))))],
        Sampling(max_tokens=8, temperature=0),
        capture=True,
    )
    residual = probe.activations[0, LAYER]
    noise = torch.randn(residual.shape, generator=torch.Generator().manual_seed(0))
    steering = (Steering(LAYER, noise / noise.norm() * residual.norm(), 4.0),)
    answers = {q: ids for q, ids in answer(smollm2, steering).items() if ids}
    found = scores(smollm2, answers)
    show("collapsed", found)
    print(repr(smollm2.chat.decode(answers[QUESTIONS[0]])))
    assert len(found) >= 10
    assert max(found) < 50


@pytest.mark.parametrize("phrase", [1, 4, 8, 16])
def test_loops_fall_below_50(smollm2: LoadedModel, ordinary: Answers, phrase: int) -> None:
    """A phrase of its own answer over and over: too likely, and repeating."""
    looped = {q: (ids[:phrase] * 64)[:64] for q, ids in ordinary.items()}
    found = scores(smollm2, looped)
    show(f"loops of {phrase} tokens", found)
    assert max(found) < 50


def test_word_salad_falls_below_50(smollm2: LoadedModel, ordinary: Answers) -> None:
    """The tokens of an answer in random order: too unlikely."""
    rng = random.Random(0)
    salad = {q: tuple(rng.sample(ids, len(ids))) for q, ids in ordinary.items() if len(ids) > 12}
    found = scores(smollm2, salad)
    show("salad", found)
    assert len(found) >= 10
    assert max(found) < 50
