"""Which coefficients steer where none are given."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from personavec import LoadedModel, PersonaVector, load_vector
from personavec.evaluate.steer import SteerConfig, choose_coefficients
from personavec.evaluate.steer.choice import said
from personavec.vectors import bundled_vectors

GIVEN = SteerConfig()


@pytest.fixture
def vector(llama: LoadedModel, random_vector: Callable[..., PersonaVector]) -> PersonaVector:
    return random_vector(llama)


@pytest.mark.parametrize("trait", bundled_vectors())
def test_bundled_vectors_steer_to_the_ends_of_their_range(trait: str) -> None:
    vector = load_vector(trait)
    assert vector.coherent_range is not None
    low, high = vector.coherent_range
    assert choose_coefficients(vector, GIVEN).values == (low, 0.0, high)
    assert low < 0 < high, "no difference could be seen on one side"


@pytest.mark.parametrize(
    ("found", "values"),
    [
        ([-2.0, 3.0], (-2.0, 0.0, 3.0)),
        ([0.0, 2.0], (0.0, 2.0)),
        ([0.0, 0.0], (-1.0, 0.0, 1.0)),
        (None, (-1.0, 0.0, 1.0)),
    ],
)
def test_the_range_decides_and_the_reason_is_said(
    vector: PersonaVector, found: list[float] | None, values: tuple[float, ...]
) -> None:
    meta = {**vector.meta, "coherent_range": found}
    chosen = choose_coefficients(replace(vector, meta=meta), GIVEN)
    assert chosen.values == values
    assert chosen.why


@pytest.mark.parametrize(
    ("found", "end"),
    [([-1.0, 3.0], "farther toward it"), ([-4.0, 2.0], "farther away from it"), ([-2.0, 2.0], "")],
)
def test_what_each_does_is_said_in_the_order_of_the_numbers(
    vector: PersonaVector, found: list[float], end: str
) -> None:
    meta = {**vector.meta, "coherent_range": found}
    why = choose_coefficients(replace(vector, meta=meta), GIVEN).why
    assert why.startswith("away from the trait, not at all, and toward it")
    assert why.endswith(end or "coherent")


def test_what_is_given_counts(vector: PersonaVector) -> None:
    vector = replace(vector, meta={**vector.meta, "coherent_range": [-2.0, 3.0]})
    chosen = choose_coefficients(vector, SteerConfig(coefficients=(2.0, 0.5)))
    assert (chosen.values, chosen.why) == ((2.0, 0.5), "")
    other = choose_coefficients(vector, SteerConfig(layer=vector.layer + 1))
    assert other.values == (-1.0, 0.0, 1.0)
    assert f"layer {vector.layer}" in other.why


def test_coefficients_are_listed_as_people_do() -> None:
    assert said([-4.0, 0.0, 1.0]) == "−4, 0 and +1"
    assert said([2.5]) == "+2.5"
