"""Readings equal plain arithmetic on full logits, and a model's norms are made once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from personavec import LoadedModel
from personavec.judges.coherence_readings import (
    NOTHING,
    Unread,
    alone_job,
    as_record,
    model_norms,
    neutral_readings,
    read_both_ways,
)
from personavec.model import chat


@torch.inference_mode()
def plain(loaded: LoadedModel, prompt: tuple[int, ...], ids: tuple[int, ...]) -> list[float]:
    """One text, one forward."""
    logits = loaded.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].double()
    rows = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return rows.gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist()


def test_both_readings_and_the_end(loaded: LoadedModel) -> None:
    """After the own prompt, and after nothing with the end of the turn where there is one."""
    nothing = tuple(loaded.chat.answer_prompt_ids(chat(NOTHING)))
    prompt = tuple(loaded.chat.answer_prompt_ids(chat("Why?", "Be odd.")))
    whole, cut = tuple(b"It is what it is."), tuple(b"It is what")
    end = loaded.chat.turn_end
    assert end is not None
    first, second = read_both_ways(loaded, [Unread(prompt, whole, ended=True), Unread(prompt, cut)])
    assert first.own.tolist() == pytest.approx(plain(loaded, prompt, whole), abs=1e-4)
    *alone, last = plain(loaded, nothing, (*whole, end))
    assert first.alone.tolist() == pytest.approx(alone, abs=1e-4)
    assert first.end == pytest.approx(last, abs=1e-4)
    assert second.alone.tolist() == pytest.approx(plain(loaded, nothing, cut), abs=1e-4)
    assert second.end is None
    assert alone_job(loaded, Unread(prompt, cut)) == (nothing, cut)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path))
    return tmp_path / "coherence"


def test_norms_are_kept_by_what_the_model_is(
    llama: LoadedModel, fresh: Callable[..., LoadedModel], cache: Path, monkeypatch
) -> None:
    """The second time nothing is generated; another model has its own file."""
    first = model_norms(llama)
    [file] = cache.iterdir()
    assert json.loads(file.read_text()) == json.loads(json.dumps(as_record(llama, first)))
    with monkeypatch.context() as patched:
        patched.setattr(
            "personavec.judges.coherence_readings.neutral_readings", lambda _: pytest.fail("again")
        )
        assert model_norms(llama) == first
    assert model_norms(fresh("qwen2")) != first
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:40],
        lambda text: text.replace('"format": 1', '"format": 0'),
        lambda text: text.replace('"own"', '"tone"'),
    ],
)
def test_a_file_that_does_not_fit_is_made_again(llama: LoadedModel, cache: Path, spoil) -> None:
    """Cut, of another format, or with other numbers."""
    first = model_norms(llama)
    [file] = cache.iterdir()
    whole = file.read_text()
    file.write_text(spoil(whole))
    assert model_norms(llama) == first
    assert file.read_text() == whole


def test_neutral_responses_are_the_models_own(llama: LoadedModel) -> None:
    """Greedy: no token is likelier than the one that was written."""
    found = neutral_readings(llama)
    assert len(found) > 40
    own = torch.cat([torch.tensor(reading.own) for reading in found])
    # Of 260 tokens, the likeliest has at least an even share.
    assert float(own.min()) > -6
