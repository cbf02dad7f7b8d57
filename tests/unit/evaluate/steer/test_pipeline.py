"""Steered answers side by side on a tiny model: conditions, continuing, and foreign files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from personavec import LoadedModel, PersonaVector, steer as steering
from personavec.errors import DataError, SettingsMismatchError, UsageError
from personavec.evaluate import steer
from personavec.evaluate.steer import AnswerSoFar, Piece, SteerConfig
from personavec.evaluate.steer.writing import Spelling
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


def test_an_answer_is_cut_unless_the_model_ended_it(
    llama: LoadedModel, vector: PersonaVector, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, coefficients=(0.0,))
    (long,) = steer.run(llama, vector, QUESTIONS[:1], config).answers
    assert (long.cut, long.n_tokens) == (True, config.max_tokens)
    prompt = torch.tensor([llama.chat.prompt_ids([{"role": "user", "content": QUESTIONS[0]}])])
    written = llama.model.generate(prompt, max_new_tokens=5, do_sample=False, pad_token_id=0)
    ids = written[0, -5:].tolist()
    monkeypatch.setattr(llama.model.generation_config, "eos_token_id", ids[-1])
    (ended,) = steer.run(llama, vector, QUESTIONS[:1], config).answers
    assert (ended.cut, ended.n_tokens) == (False, ids.index(ids[-1]))


def test_an_answer_is_read_as_it_was_steered(llama: LoadedModel, vector: PersonaVector) -> None:
    """Against hidden states of plain generation, taken after the steered block."""
    found = steer.run(llama, vector, QUESTIONS[:1], CONFIG)
    mean, spread = vector.neutral_response_mean[vector.layer].tolist()
    for answer in found.answers:
        ids = llama.chat.prompt_ids([{"role": "user", "content": answer.question}])
        seen: list[torch.Tensor] = []

        def take(_: object, __: object, out: Any, seen: list[torch.Tensor] = seen) -> None:
            seen.append((out[0] if isinstance(out, tuple) else out)[0, -1])

        with steering(llama.model, vector, answer.coefficient):
            hook = llama.model.model.layers[vector.layer - 1].register_forward_hook(take)
            llama.model.generate(
                torch.tensor([ids]), max_new_tokens=6, do_sample=False, pad_token_id=0
            )
            hook.remove()
        hidden = torch.stack(seen[1 : 1 + answer.n_tokens])
        expected = (float(vector.project(hidden).mean()) - mean) / spread
        assert answer.sigma == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_answers_are_shown_while_they_are_written(
    llama: LoadedModel, vector: PersonaVector, tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    moments: list[AnswerSoFar] = []
    config = replace(CONFIG, max_tokens=24)
    found = steer.run(llama, vector, QUESTIONS, config, out=out, show=moments.append)
    n = len(found.answers)
    assert [(m.id, m.pieces, m.answer) for m in moments[:n]] == [
        (a.id, (), None) for a in found.answers
    ]
    for answer in found.answers:
        own = [m for m in moments if m.id == answer.id]
        lengths = [len(m.pieces) for m in own]
        assert lengths == sorted(lengths)
        assert len(set(lengths)) > 3, "it did not come piece by piece"
        assert [m.answer for m in own if m.answer] == [answer]
        assert "".join(piece.text for piece in own[-1].pieces) == answer.response
    again: list[AnswerSoFar] = []
    assert steer.run(llama, vector, QUESTIONS, config, out=out, show=again.append) == found
    assert [m.answer for m in again] == list(found.answers)


def test_readings_of_pieces_are_those_of_their_answer(
    llama: LoadedModel, vector: PersonaVector
) -> None:
    moments: list[AnswerSoFar] = []
    found = steer.run(llama, vector, QUESTIONS[:1], CONFIG, show=moments.append)
    last = {m.id: m.pieces for m in moments}
    checked = 0
    for answer in found.answers:
        sigmas = [piece.sigma for piece in last[answer.id]]
        if len(sigmas) == answer.n_tokens and None not in sigmas:
            assert answer.sigma == pytest.approx(sum(sigmas) / len(sigmas), rel=1e-3, abs=1e-3)
            checked += 1
    assert checked


def test_characters_of_several_tokens_come_whole() -> None:
    """Three bytes each: a piece ends where a character does, and reads the mean of its tokens."""
    text = "né — ja"
    ids = list(text.encode())

    def decode(own: Sequence[int]) -> str:
        return bytes(own).decode(errors="replace")

    spelling = Spelling(decode)
    for end in range(1, len(ids) + 1):
        spelling.take(ids[:end], [float(i) for i in range(end)])
        assert "\ufffd" not in "".join(piece.text for piece in spelling.pieces)
    assert [piece.text for piece in spelling.pieces] == list(text)
    assert [p.sigma for p in spelling.pieces if p.text in "é—"] == [1.5, 5.0]
    assert spelling.whole(text) == tuple(spelling.pieces)
    assert spelling.whole(text + "!")[-1] == Piece("!")
    assert spelling.whole("other") == (Piece("other"),)


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
