"""A model is known by what its weights are, not by where they lie or what they are called."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from personavec import LoadedModel, load_model, wrap_model
from personavec.errors import ModelError
from personavec.model import hash_of_files, snapshots, weights
from personavec.model.weights import hash_in_memory


@pytest.fixture
def saved(tmp_path: Path, fresh: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch):
    """A model's folder, and a cache of one's own in which hashes are kept at once."""
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "_SETTLED", -1.0)
    loaded = fresh()
    folder = tmp_path / "model"
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def changed(path: Path) -> None:
    """One byte of the file, in place, with its times put back as far as they can be."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def copied_over(path: Path) -> None:
    """Another file of the same name, size and time, as `cp -p` or `rsync -t` leave it."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    changed(other)
    other.replace(path)


@pytest.mark.parametrize("how", [changed, copied_over])
def test_weights_that_change_under_a_name_are_another_model(
    saved: Path, how: Callable[[Path], None]
) -> None:
    before = load_model(str(saved), device="cpu").identity
    assert before == load_model(str(saved), device="cpu").identity
    how(saved / "model.safetensors")
    after = load_model(str(saved), device="cpu").identity
    assert before.name == after.name
    assert before.weights != after.weights


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"]
)
def test_whatever_decides_answers_is_in_the_hash(saved: Path, name: str) -> None:
    before = hash_of_files(saved)
    changed(saved / name)
    assert hash_of_files(saved) != before


def test_what_decides_no_answer_is_not_in_it_nor_where_the_folder_lies(saved: Path) -> None:
    before = hash_of_files(saved)
    for name in ("README.md", "trainer_state.json", "training_args.bin", "results.json"):
        (saved / name).write_text("{}")
    moved = saved.rename(saved.with_name("moved"))
    assert hash_of_files(moved) == before


def test_a_file_is_read_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hash_of_files(saved)
    monkeypatch.setattr(weights, "_CHUNK", 0)  # whatever is read now reads as empty
    assert hash_of_files(saved) == before


def test_a_file_written_just_now_is_read_again(saved: Path) -> None:
    weights._SETTLED = 3600.0
    path = saved / "model.safetensors"
    hash_of_files(saved)
    kept = [json.loads(p.read_text())["file"][0] for p in saved.parent.glob("cache/hashes/*")]
    assert str(path) not in kept


@pytest.mark.parametrize("damage", ["{", "[]", '{"file": 1}', '{"hash": 1}', "[" * 100_000])
def test_a_damaged_record_is_made_again(saved: Path, damage: str) -> None:
    before = hash_of_files(saved)
    records = list(saved.parent.glob("cache/hashes/*"))
    assert records
    for record in records:
        record.write_text(damage)
    assert hash_of_files(saved) == before


def test_without_a_cache_folder_the_files_are_hashed_all_the_same(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hash_of_files(saved)
    monkeypatch.setenv("PERSONAVEC_CACHE", "/proc/nowhere")
    assert hash_of_files(saved) == before


def test_a_model_in_memory_is_known_by_its_parameters(fresh: Callable[..., LoadedModel]) -> None:
    first, again = fresh(), fresh()
    assert first.identity == again.identity
    with torch.no_grad():
        table = again.model.get_input_embeddings().weight
        table[3, 5] = -table[3, 5]
    other = wrap_model(again.model, again.tokenizer, name=first.identity.name).identity
    assert other.weights != first.identity.weights
    assert hash_in_memory(first.model.to(torch.bfloat16)) != first.identity.weights


def test_swapped_rows_are_another_model(fresh: Callable[..., LoadedModel]) -> None:
    """A sum alone would not see them."""
    loaded = fresh()
    with torch.no_grad():
        weight = loaded.model.get_output_embeddings().weight
        weight[:2] = weight[:2].flip(0).clone()
    assert hash_in_memory(loaded.model) != loaded.identity.weights


def test_an_adapter_is_known_with_its_base(saved: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from personavec.model import tuned_model

    base = load_model(str(saved), device="cpu")
    folder = tmp_path / "adapter"
    get_peft_model(base.model, LoraConfig(target_modules="all-linear")).save_pretrained(str(folder))
    base = load_model(str(saved), device="cpu")
    loaded = load_model(str(folder), device="cpu").identity
    assert loaded.weights not in (None, base.identity.weights)
    with tuned_model(base, str(folder)) as tuned:
        assert tuned.identity.weights == loaded.weights
    changed(saved / "model.safetensors")
    with_other_base = load_model(str(folder), device="cpu").identity
    changed(folder / "adapter_model.safetensors")
    with_both = load_model(str(folder), device="cpu").identity
    assert len({loaded.weights, with_other_base.weights, with_both.weights}) == 3


def test_a_gguf_is_converted_once_for_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name, size and time alone another file would pass for it."""
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
    converted = []

    def convert(gguf: Path, folder: Path) -> None:
        converted.append(gguf.read_bytes())
        folder.mkdir()

    monkeypatch.setattr(snapshots, "_convert", convert)
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF one")
    first = snapshots.snapshot_of_gguf(path)
    assert snapshots.snapshot_of_gguf(path) == first
    copied_over(path)
    assert snapshots.snapshot_of_gguf(path) != first
    assert len(converted) == 2


@pytest.mark.parametrize("base", ["itself", "another"])
def test_an_adapter_on_an_adapter_is_one_line(tmp_path: Path, base: str) -> None:
    for name, of in (("itself", "itself"), ("another", "itself")):
        (tmp_path / name).mkdir()
        config = {"base_model_name_or_path": str(tmp_path / of)}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="names another adapter"):
        load_model(str(tmp_path / base))


def test_old_hashes_do_not_outlive_a_slow_clock(saved: Path) -> None:
    """A file whose times lie in the future is never taken as settled."""
    path = saved / "model.safetensors"
    ahead = time.time() + 3600
    os.utime(path, (ahead, ahead))
    weights._SETTLED = 0.0
    hash_of_files(saved)
    kept = [json.loads(p.read_text())["file"][0] for p in saved.parent.glob("cache/hashes/*")]
    assert str(path) not in kept
