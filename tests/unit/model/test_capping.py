"""A cap removes what exceeds its ceiling, where and in which rows it is meant; else nothing."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from generating import generate_batch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import Tensor

from personavec import LoadedModel, PersonaVector, steer
from personavec.errors import UsageError
from personavec.model import (
    Cap,
    Steering,
    SteeringBatch,
    capture_means,
    steering_forwards,
    vector_cap,
)
from personavec.model.engine import Request, Sampling
from personavec.vectors import PERCENTILES, Calibration

IDS = tuple(b"What is a persona?")
GREEDY = Sampling(max_tokens=6, temperature=0)


def direction(seed: int, size: int = 32) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def states_of(loaded: LoadedModel, layer: int) -> Tensor:
    """Every token's state of IDS at a layer."""
    tokens = [(i, i + 1) for i in range(len(IDS))]
    return capture_means(loaded.model, [IDS], [tokens], layers=[layer])[0, :, 0]


def projected(loaded: LoadedModel, cap: Cap) -> Tensor:
    return states_of(loaded, cap.layer) @ cap.unit


@settings(derandomize=True, max_examples=25, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 9), ceiling=st.floats(-2, 2))
def test_no_token_is_above_a_cap_and_those_below_stay(
    loaded: LoadedModel, seed: int, ceiling: float
) -> None:
    cap = Cap(1, direction(seed), ceiling, "all")
    before = projected(loaded, cap)
    with steering_forwards(loaded.model, [cap]):
        after = projected(loaded, cap)
    torch.testing.assert_close(after, before.clamp(max=ceiling), atol=1e-4, rtol=1e-4)


def test_what_is_across_the_direction_is_left_alone(llama: LoadedModel) -> None:
    cap = Cap(2, direction(1), 0.0, "all")
    before = states_of(llama, 2)
    with steering_forwards(llama.model, [cap]):
        after = states_of(llama, 2)
    across = [s - (s @ cap.unit)[:, None] * cap.unit for s in (before, after)]
    torch.testing.assert_close(across[0], across[1], atol=1e-4, rtol=1e-4)


def test_a_cap_above_everything_changes_no_bit(loaded: LoadedModel) -> None:
    requests = [Request("a", IDS), Request("b", IDS, (Cap(1, direction(0), 1e6, "all"),))]
    plain, capped = generate_batch(loaded, requests, GREEDY, capture=True)
    assert capped.response_ids == plain.response_ids
    assert torch.equal(capped.activations, plain.activations)


def test_rows_are_capped_each_by_its_own(loaded: LoadedModel) -> None:
    """Additions and caps of a mixed batch, against each request alone."""
    v, w = direction(1), direction(2)
    rows = {
        "plain": (),
        "capped": (Cap(1, v, -0.5),),
        "two caps": (Cap(1, v, -0.5, "all"), Cap(1, w, 0.1, "all")),
        "added and capped": (Cap(2, v, 0.2), Steering(2, v, 3.0), Steering(1, w, 1.0)),
    }
    requests = [Request(name, IDS[: 6 + 3 * n], row) for n, (name, row) in enumerate(rows.items())]
    together = generate_batch(loaded, requests, GREEDY, capture=True)
    for request, found in zip(requests, together, strict=True):
        [alone] = generate_batch(loaded, [request], GREEDY, capture=True)
        assert found.response_ids == alone.response_ids
        if alone.activations is not None:
            torch.testing.assert_close(found.activations, alone.activations, atol=1e-4, rtol=1e-4)


def test_the_cap_comes_after_the_addition(llama: LoadedModel) -> None:
    """Whatever their order in the list, in the engine's batch as in plain forwards."""
    v = direction(1)
    actions = (Cap(2, v, 0.25, "all"), Steering(2, v, 5.0, "all"))
    with steering_forwards(llama.model, actions):
        assert float(projected(llama, actions[0]).max()) <= 0.25 + 1e-4
    batch = SteeringBatch([actions], 32, 4)
    batch.token_masks = {"all": torch.ones(1, 3)}
    hidden = batch.apply(2, torch.randn(1, 3, 32))
    assert float((hidden @ actions[0].unit).max()) <= 0.25 + 1e-4


def test_padding_is_not_capped() -> None:
    batch = SteeringBatch([(Cap(1, direction(0), -100.0, "all"),)], 32, 4)
    batch.token_masks = {"all": torch.tensor([[0, 1]])}
    hidden = torch.randn(1, 2, 32)
    capped = batch.apply(1, hidden)
    assert torch.equal(capped[0, 0], hidden[0, 0])
    assert not torch.equal(capped[0, 1], hidden[0, 1])


@pytest.fixture
def calibrated(llama: LoadedModel, random_vector: Callable[..., PersonaVector]) -> PersonaVector:
    vector = random_vector(llama, layer=2)
    found = Calibration(
        trait=vector.trait,
        vector=vector.hash,
        layer=2,
        unit="log_odds",
        slope=1.0,
        intercept=0.0,
        below=-1.0,
        above=1.0,
        tokens=tuple(float(p) / 100 - 0.9 for p in PERCENTILES),
    )
    return replace(vector, calibration=found)


def test_a_vector_is_capped_at_a_percentile_of_its_ordinary_tokens(
    llama: LoadedModel, calibrated: PersonaVector
) -> None:
    assert vector_cap(calibrated, 90).ceiling == pytest.approx(0.0)
    assert vector_cap(calibrated, 92.5).ceiling == pytest.approx(0.025)
    with steer(llama.model, calibrated, positions="all", cap=90):
        states = states_of(llama, 2)
    assert float(calibrated.project(states).max()) <= 1e-4


def test_what_cannot_be_a_cap_is_named(calibrated: PersonaVector) -> None:
    with pytest.raises(UsageError, match="not a finite"):
        Cap(1, direction(0), np.nan)
    with pytest.raises(UsageError, match="layers count from 1"):
        Cap(0, direction(0), 1.0)
    with pytest.raises(UsageError, match="layer 5 does not exist"):
        SteeringBatch([(Cap(5, direction(0), 1.0),)], 32, 4)
    with pytest.raises(UsageError, match=r"percentile 99\.9"):
        vector_cap(calibrated, 99.9)
    with pytest.raises(UsageError, match="has no calibration"):
        vector_cap(replace(calibrated, calibration=None), 90)
