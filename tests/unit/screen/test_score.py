"""Rows' scores, against each turn read alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from generating import generate
from talk_rows import TALK, asked_row, talk_row

from personavec import LoadedModel, PersonaVector, project_conversation
from personavec.data import RawRow
from personavec.errors import VectorMismatchError
from personavec.model.engine import Request, Sampling
from personavec.rollouts import Naturals
from personavec.screen import Columns, Plan, Probe, prepare, probe
from personavec.screen.score import score_rows


@pytest.fixture
def vectors(loaded: LoadedModel, random_vector) -> list[PersonaVector]:
    return [random_vector(loaded, layer=1, trait="one"), random_vector(loaded, 2, "two")]


def test_scores_equal_those_of_each_turn_read_alone(
    loaded: LoadedModel, vectors: list[PersonaVector]
) -> None:
    raws = [talk_row(0, *TALK), asked_row(1, "Hi", "Hello there"), talk_row(2, *TALK[:3])]
    wanted = probe(vectors, loaded, random=2)
    for turns in ("all", "last"):
        found = score_rows(loaded, raws, wanted, Plan(turns=turns))
        for row, raw in enumerate(raws):
            for column, vector in enumerate(vectors):
                readings = project_conversation(loaded, vector, raw.columns["messages"])
                readings = readings if turns == "all" else readings[-1:]
                lengths = [
                    len(loaded.chat.response_ids(raw.columns["messages"][r.turn]["content"]))
                    for r in readings
                ]
                mean = np.average([r.response_mean for r in readings], weights=lengths)
                last = np.average([r.prompt_last for r in readings], weights=lengths)
                assert found.projection[row, column] == pytest.approx(mean, abs=1e-4)
                assert found.minus_prompt[row, column] == pytest.approx(mean - last, abs=1e-4)
                assert found.n_tokens[row] == sum(lengths)


def test_rejects_keep_their_place_and_reason(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    raws = [
        asked_row(0, "Hi", "Hello"),
        asked_row(1, "Hi", ""),
        RawRow(2, "data.jsonl", 9, {}, error="not JSON"),
        asked_row(3, "Hi", "x" * (llama.context + 1)),
        asked_row(4, "Hi", "Hello"),
    ]
    found = score_rows(llama, raws, probe([random_vector(llama)], llama), Plan(by=("source",)))
    assert isinstance(found, Columns)
    assert found.index.tolist() == [0, 1, 2, 3, 4]
    assert [reason is None for reason in found.reason] == [True, False, False, False, True]
    assert "model's context" in str(found.reason[3])
    assert np.isfinite(found.projection).all(1).tolist() == [True, False, False, False, True]
    np.testing.assert_array_equal(found.projection[0], found.projection[4])
    assert found.id[2] == "data.jsonl:9"
    assert found.prompt[0] == found.prompt[4] != found.prompt[3] or found.prompt[3] == 0


def test_a_pair_has_both_sides(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    wanted = probe([random_vector(llama)], llama)
    pair = RawRow(0, "", 1, {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"})
    found = score_rows(llama, [pair], wanted, Plan(kind="pair"))
    alone = score_rows(
        llama, [asked_row(0, "Hi", "Hello"), asked_row(1, "Hi", "Go away")], wanted, Plan()
    )
    np.testing.assert_allclose(found.projection[0], alone.projection[0], atol=1e-5)
    np.testing.assert_allclose(found.rejected[0], alone.projection[1], atol=1e-5)


def test_a_vector_of_another_model_is_refused(
    fresh: Callable[..., LoadedModel], random_vector: Callable[..., PersonaVector]
) -> None:
    with pytest.raises(VectorMismatchError, match="extract the trait on this model"):
        probe([random_vector(fresh("llama"))], fresh("gpt2"))


def test_random_controls_are_unit_directions_at_the_traits_layers(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    vectors = [random_vector(llama, layer, f"t{layer}") for layer in (2, 1)]
    vectors.append(random_vector(llama, 2, "again"))
    found: Probe = probe(vectors, llama, random=3, seed=5)
    assert found.directions.layers == (2, 1, 2, *[2] * 3, *[1] * 3)
    assert found.controls == ((3, 4, 5), (6, 7, 8), (3, 4, 5))
    torch.testing.assert_close(found.directions.unit.norm(dim=-1), torch.ones(9))


def _natural_plainly(loaded: LoadedModel, prompt: tuple[int, ...], tokens: int):
    [[generation]] = generate(
        loaded, [Request("x", prompt)], Sampling(tokens, temperature=0), capture=True
    )
    return generation


def test_natural_responses_are_generated_once_and_serve_every_later_vector(
    tmp_path: Path, llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    raws = [asked_row(0, "Hi", "Hello"), asked_row(1, "Hi", "Go"), talk_row(2, *TALK)]
    wanted = probe([random_vector(llama, 2)], llama, random=0)
    naturals = Naturals(llama, tmp_path, max_tokens=6)
    found = score_rows(llama, raws, wanted, Plan(), naturals=naturals)
    assert naturals.kept == 3  # one prompt is shared, the talk has two

    for row, raw in enumerate(raws):
        prepared = prepare(llama, [raw], Plan()).encoded[0].texts[0]
        total, weights = 0.0, 0
        for turn in prepared.turns:
            prompt = tuple(prepared.ids[: turn.start].tolist())
            generation = _natural_plainly(llama, prompt, 6)
            kept = naturals.response(prompt)
            assert kept is not None
            assert kept.response == llama.chat.decode(generation.response_ids)
            assert generation.activations is not None
            value = float(generation.activations[0, 2] @ wanted.directions.unit[0])
            total, weights = total + turn.n_tokens * value, weights + turn.n_tokens
        expected = found.projection[row, 0] - total / weights
        assert found.minus_natural[row, 0] == pytest.approx(expected, abs=1e-4)

    # Another vector, at another layer, in another process: nothing is generated.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = Naturals(llama, tmp_path, max_tokens=6)
    other = probe([random_vector(llama, 3)], llama, random=0)
    assert np.isfinite(score_rows(llama, raws, other, Plan(), naturals=again).minus_natural).all()
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert before == after
    assert Naturals(llama, tmp_path, max_tokens=7).kept == 0  # another limit, another response
