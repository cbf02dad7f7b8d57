"""Steered answers side by side on a tiny model: conditions, continuing, and foreign files."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from personavec import LoadedModel, PersonaVector, steer as steering
from personavec.errors import DataError, SettingsMismatchError, UsageError
from personavec.evaluate import steer
from personavec.evaluate.steer import SteerConfig
from personavec.results import dump
from personavec.traits import load_trait

QUESTIONS = ["Who is there?", "Why?"]
CONFIG = SteerConfig(coefficients=(-2.0, 0.0, 2.0), max_tokens=5, temperature=0)
MakeVector = Callable[..., PersonaVector]


@pytest.fixture
def vector(llama: LoadedModel, random_vector: MakeVector) -> PersonaVector:
    return random_vector(llama)


def test_every_question_is_answered_under_every_condition(
    llama: LoadedModel, vector: PersonaVector
) -> None:
    """Against plain greedy generation with the vector switched on."""
    found = steer.run(llama, vector, QUESTIONS, CONFIG)
    assert (found.trait, found.layer) == (vector.trait, vector.layer)
    asked = [(a.question, a.condition, a.coefficient) for a in found.answers]
    conditions = [("-2", -2.0), ("0", 0.0), ("+2", 2.0)]
    assert asked == [(q, *condition) for q in QUESTIONS for condition in conditions]
    for answer in found.answers:
        ids = llama.chat.prompt_ids([{"role": "user", "content": answer.question}])
        with steering(llama.model, vector, answer.coefficient):
            written = llama.model.generate(
                torch.tensor([ids]), max_new_tokens=5, do_sample=False, pad_token_id=0
            )[0, len(ids) :].tolist()
        assert llama.chat.decode(tuple(written[: answer.n_tokens])) == answer.response


def test_a_bundled_trait_adds_its_system_prompt(llama: LoadedModel, vector: PersonaVector) -> None:
    vector = replace(vector, trait="evil")
    found = steer.run(llama, vector, QUESTIONS[:1], replace(CONFIG, coefficients=(0.0,)))
    plain, prompted = found.answers
    assert (plain.condition, plain.system) == ("0", None)
    assert prompted.condition == "system prompt"
    assert prompted.system == load_trait("evil")[0].instruction[0].pos
    assert prompted.response != plain.response


def test_a_killed_run_continues_to_the_same_file(
    llama: LoadedModel, vector: PersonaVector, tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    whole = steer.run(llama, vector, QUESTIONS, CONFIG, out=out)
    lines = out.read_text("utf-8").splitlines(keepends=True)
    assert [json.loads(line) for line in lines] == [dump(a) for a in whole.answers]
    out.write_text("".join(lines[:2]), "utf-8")
    assert steer.run(llama, vector, QUESTIONS, CONFIG, out=out) == whole
    with pytest.raises(SettingsMismatchError):
        steer.run(llama, vector, QUESTIONS, replace(CONFIG, seed=1), out=out)
    out.write_text('{"id": "q0-0"}\n', "utf-8")
    with pytest.raises(DataError, match="a line is no answer"):
        steer.run(llama, vector, QUESTIONS, CONFIG, out=out)


def test_a_file_of_another_origin_is_left_alone(
    llama: LoadedModel, vector: PersonaVector, tmp_path: Path
) -> None:
    out = tmp_path / "mine.jsonl"
    out.write_text("{}\n")
    with pytest.raises(UsageError, match="was not written by 'steer'"):
        steer.run(llama, vector, QUESTIONS, CONFIG, out=out)
    assert out.read_text() == "{}\n"
