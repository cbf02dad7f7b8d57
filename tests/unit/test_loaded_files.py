"""Whatever lies in a file that is loaded: a sound object, or one line that says what is wrong.

Files come from other people. Each kind is given any JSON value in place of what it holds, a valid
one with one part replaced or missing, any bytes, and a valid one cut off.
"""

import copy
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import save_file

from personavec import LoadedModel, PersonaVector, load_model, load_vector
from personavec.cli.main import main
from personavec.conditions import parse_condition
from personavec.errors import DataError, ModelError, PersonavecError, SpecError, UsageError
from personavec.extract import vector_report
from personavec.model.adapters import read_adapter
from personavec.model.snapshots import snapshot_of_gguf
from personavec.plain import parse_json
from personavec.runs import claim
from personavec.traits import BUNDLED, load_trait
from personavec.vectors import bundled_vectors, read_reference, vector_folder

any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -1, 10**30, 10**400, math.nan, math.inf, 1e308, "", "../../x", "a/b"])
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=()), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@contextmanager
def sound_or_one_line(raised: type[PersonavecError]) -> Iterator[None]:
    try:
        yield
    except raised as error:
        if "\n" in str(error):
            raise AssertionError("more than one line") from error


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every part of a JSON value, of at most three members of each list."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))[:3]
    return [path, *(found for key, part in inner for found in places(part, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:
    """A valid value with one of its parts replaced or left out, or another value altogether."""
    place = draw(st.sampled_from(places(valid)))
    if not place:
        return draw(any_json)
    value = copy.deepcopy(valid)
    outer = value
    for key in place[:-1]:
        outer = outer[key]
    if draw(st.integers(0, 9)) == 0:
        del outer[place[-1]]
    else:
        outer[place[-1]] = draw(any_json)
    return value


def is_sound(vector: PersonaVector) -> None:
    """Everything that a server or a monitor asks of it gives numbers."""
    assert math.isfinite(vector.relative_dose(1.0))
    assert vector.project(vector.direction()).isfinite()
    spread = vector.neutral_response_mean[vector.layer, 1]
    assert (vector.neutral_response_mean[vector.layer] / spread).isfinite().all()
    low, high = vector.coherent_range or (0.0, 1.0)
    assert low <= high
    if vector.calibration is not None:
        assert math.isfinite(vector.calibration.ceiling(95.0))
        assert math.isfinite(vector.calibration.forecast(1.0).value)
    if vector.ordinary is not None:
        alarm = vector.ordinary.chart().update(vector.ordinary.standardise(1.0, 99))
        assert alarm is None or alarm.level > alarm.limit
    assert Path("out", vector.trait).resolve().parent == Path("out").resolve()
    vector.other_model_warning("another")
    assert json.dumps(vector.identity)
    assert vector._repr_html_()


def is_spec(found: Any) -> None:
    spec, _ = found
    assert spec.hash
    assert spec.model_dump_json()
    assert Path("out", spec.name).resolve().parent == Path("out").resolve()


def read_vector(path: Path) -> None:
    vector = load_vector(path.parent)
    is_sound(vector)
    assert vector_report(vector.trait, vector.layer, vector.meta)


def read_beside_vector(path: Path) -> None:
    is_sound(load_vector(path.parent))


@dataclass(frozen=True)
class Kind:
    """A file by its name, what a valid one holds, and what reads it."""

    name: str
    valid: Any
    read: Callable[[Path], Any]
    raised: type[PersonavecError] = DataError


def of_a_vector(name: str, read: Callable[[Path], None]) -> Kind:
    return Kind(name, json.loads((vector_folder("evil") / name).read_text()), read)


ADAPTER = {
    "base_model_name_or_path": "nobody/nothing",
    "peft_type": "LORA",
    "r": 4,
    "target_modules": ["q_proj"],
}
REFERENCE = {
    "instruction": [{"pos": "Be evil.", "neg": "Be kind."}],
    "questions": ["A?", "B?", "C?", "D?"],
    "eval_prompt": "Rate {answer}",
}
KINDS = {
    "vector": of_a_vector("vector.json", read_vector),
    "calibration": of_a_vector("calibration.json", read_beside_vector),
    "limits": of_a_vector("drift.json", read_beside_vector),
    "spec": Kind(
        "evil.json",
        json.loads((BUNDLED / "traits" / "evil.json").read_text("utf-8")),
        lambda path: is_spec(load_trait(str(path))),
        SpecError,
    ),
    "reference spec": Kind(
        "evil.json", REFERENCE, lambda path: is_spec(load_trait(str(path))), SpecError
    ),
    "adapter": Kind(
        "adapter_config.json", ADAPTER, lambda path: read_adapter(str(path.parent)), ModelError
    ),
    "manifest": Kind(
        "manifest.json",
        {"personavec": {"format": 2, "version": "0"}, "seed": 0, "model": {"name": "m"}},
        lambda path: claim(path.parent, {"seed": 0, "model": {"name": "m"}}),
        PersonavecError,
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each kind, with the files that lie beside the one in question."""
    found = {name: tmp_path_factory.mktemp("kind") for name in KINDS}
    for name in ("vector", "calibration", "limits"):
        shutil.copytree(vector_folder("evil"), found[name], dirs_exist_ok=True)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_a_valid_file_is_read(folders: dict[str, Path], name: str) -> None:
    kind = KINDS[name]
    (folders[name] / kind.name).write_text(json.dumps(kind.valid))
    kind.read(folders[name] / kind.name)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_in_any_place_is_sound_or_one_line(
    folders: dict[str, Path], name: str, data: st.DataObject
) -> None:
    kind = KINDS[name]
    path = folders[name] / kind.name
    path.write_text(json.dumps(data.draw(mutated(kind.valid))))
    with sound_or_one_line(kind.raised):
        kind.read(path)


TEXTS = {
    "nothing": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "deep and closed": b'{"a":' * 900 + b"1" + b"}" * 900,
    "an integer too long for Python": b"[" + b"1" * 5000 + b"]",
    "a lone surrogate": rb'{"name": "\ud800", "trait": "\ud800"}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_sound_json_is_one_line(
    folders: dict[str, Path], name: str, text: bytes
) -> None:
    kind = KINDS[name]
    path = folders[name] / kind.name
    path.write_bytes(text)
    with pytest.raises(kind.raised) as caught:
        kind.read(path)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize("name", ["vector", "calibration", "limits", "spec"])
def test_a_byte_order_mark_is_no_damage(folders: dict[str, Path], name: str) -> None:
    kind = KINDS[name]
    path = folders[name] / kind.name
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(kind.valid).encode())
    kind.read(path)


BAD_NAMES = ["../../x", "a/b", "..", "", ".hidden", "a\nb", "a\x00b", "x" * 65, "\u202eevil", "-x"]
BAD_NAMES += ["a\u200bb", "a\u2028b", "\u0301a", "a\\b", "\U00010330" * 64, "\x1b[31m"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_trait_that_names_no_file_is_refused_wherever_it_comes_from(
    folders: dict[str, Path], llama: LoadedModel, random_vector: Callable[..., Any], name: str
) -> None:
    kind = KINDS["vector"]
    (folders["vector"] / kind.name).write_text(json.dumps({**kind.valid, "trait": name}))
    with pytest.raises(DataError, match="trait"):
        load_vector(folders["vector"])
    with pytest.raises(UsageError, match="trait name"):
        random_vector(llama, trait=name)
    with pytest.raises((SpecError, UsageError)):
        load_trait(name, "Being odd.")


@pytest.mark.parametrize("name", ["höflich", "愛想", "दयालु", "الشر", "愛" * 64])
def test_a_trait_may_be_named_in_any_script(
    folders: dict[str, Path], llama: LoadedModel, random_vector: Callable[..., Any], name: str
) -> None:
    random_vector(llama, trait=name).save(folders["vector"].parent / name)
    assert load_vector(folders["vector"].parent / name).trait == name
    assert load_trait(name, "Being odd.")[0].name == name
    assert parse_condition(f"{name}>3sigma", traits=[name]).trait == name


# Tensors


def edited(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    from safetensors.torch import load_file

    tensors = load_file(folder / "vector.safetensors")
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, folder / "vector.safetensors")


def at(row: int, value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[row] = value
        return tensor

    return change


TENSORS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "zero vector": ("response_mean_diff", torch.zeros_like),
    "NaN": ("response_mean_diff", at(3, math.nan)),
    "huge": ("response_mean_diff", at(3, 3e38)),
    "integers": ("response_mean_diff", lambda tensor: tensor.int()),
    "too few rows": ("residual_norm", lambda tensor: tensor[1:]),
    "no rows": ("response_mean_diff", lambda tensor: tensor[:0]),
    "one number": ("response_mean_diff", lambda tensor: tensor[0, 0]),
    "norms of 0": ("residual_norm", torch.zeros_like),
    "norms below 0": ("residual_norm", at(3, -1.0)),
    "spread of 0": ("neutral_response_mean", at(3, 0.0)),
    "spread below 0": ("neutral_prompt_last", at(3, -1.0)),
}


@pytest.fixture
def folder(tmp_path: Path, llama: LoadedModel, random_vector: Callable[..., PersonaVector]) -> Path:
    return random_vector(llama, layer=3).save(tmp_path / "vector")


@pytest.mark.parametrize(("name", "change"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_are_no_vector_are_refused(
    folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    load_vector(folder)
    edited(folder, name, change)
    with pytest.raises(DataError, match="extract"):
        load_vector(folder)


def test_a_layer_without_a_direction_cannot_be_chosen(folder: Path) -> None:
    """An imported vector may hold one layer alone."""
    edited(folder, "response_mean_diff", at(2, 0.0))
    vector = load_vector(folder)
    is_sound(vector)
    with pytest.raises(UsageError, match="no direction at layer 2"):
        vector.direction(2)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_weights_of_a_vector_are_one_line(folder: Path, data: st.DataObject) -> None:
    path = folder / "vector.safetensors"
    path.write_bytes(data.draw(damaged(whole := path.read_bytes())))
    with sound_or_one_line(DataError):
        is_sound(load_vector(folder))
    path.write_bytes(whole)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file cut off, with a few bytes changed near its beginning, or of any bytes."""
    how = draw(st.integers(0, 2))
    if how == 0:
        return whole[: draw(st.integers(0, len(whole)))]
    if how == 1:
        return draw(st.binary(max_size=200))
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, min(len(data), 600) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_pt_is_one_line(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "evil.pt"
    torch.save(torch.ones(5, 8), path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    with sound_or_one_line(DataError):
        assert read_reference(path).isfinite().all()


# Models


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, llama: LoadedModel) -> Path:
    folder = tmp_path_factory.mktemp("model")
    llama.model.save_pretrained(folder)
    llama.tokenizer.save_pretrained(folder)
    return folder


MODEL_DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "weights cut off": ("model.safetensors", lambda whole: whole[:-100]),
    "weights cut off in the header": ("model.safetensors", lambda whole: whole[:50]),
    "no weights": ("model.safetensors", lambda _: b""),
    "a header of any length": ("model.safetensors", lambda whole: b"\xff" * 8 + whole[8:]),
    "config is no JSON": ("config.json", lambda _: b"{"),
    "config is deep": ("config.json", lambda _: b"[" * 100_000),
    "config is a list": ("config.json", lambda _: b"[]"),
    "tokenizer is no JSON": ("tokenizer.json", lambda _: b"{"),
    "tokenizer is deep": ("tokenizer.json", lambda _: b"[" * 100_000),
    "tokenizer settings are a list": ("tokenizer_config.json", lambda _: b"[1]"),
}


@pytest.mark.parametrize(("name", "damage"), MODEL_DAMAGE.values(), ids=MODEL_DAMAGE)
def test_a_damaged_model_is_one_line(
    saved: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(ModelError, match="could not be loaded") as caught:
        load_model(str(tmp_path), device="cpu")
    assert "\n" not in str(caught.value)


ODD = r"could not be loaded|config\.json|no stack of"
#: Values of a config.json that a loader takes for granted, or that only a forward looks at.
ODD_SETTINGS: dict[str, list[Any]] = {
    "sliding_window": ["x", 0, -1, 2.5, [], {}],
    "num_attention_heads": ["x", 0, -1, 7, None],
    "num_key_value_heads": ["x", 0, 3],
    "head_dim": ["x", 0, -1, 9],
    "num_hidden_layers": ["x", -1, 5, 10**12],
    "layer_types": ["x", ["full_attention"], ["nonsense"] * 4],
    "rope_scaling": [3, "x", {"rope_type": "nonsense"}, {"rope_type": "linear", "factor": "x"}],
    "vocab_size": ["x", -1, 0, 7, 10**12],
    "dtype": ["nonsense"],
    "hidden_size": ["x", 0, -32, 10**12],
    "intermediate_size": ["x", -1, 10**12],
    "max_position_embeddings": ["x", -1, 0],
    "hidden_act": ["nonsense", 3],
    "rms_norm_eps": ["x", None],
    "model_type": ["nonsense", 3],
    "quantization_config": ["x", 3],
    "eos_token_id": ["x", {}],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in ODD_SETTINGS.items() for value in values],
    ids=lambda value: str(value)[:30],
)
def test_an_odd_setting_of_a_model_is_one_line(
    saved: Path, tmp_path: Path, name: str, value: Any
) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), name: value}))
    with pytest.raises(ModelError, match=ODD) as caught:
        load_model(str(tmp_path), device="cpu", dtype="float32")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "command", ["models show", "extract --trait evil --out OUT --model", "serve --model"]
)
def test_every_command_tells_an_odd_setting_in_one_line(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    shutil.copytree(saved, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sliding_window": 0}))
    given = command.replace("OUT", str(tmp_path / "out")).split()
    with pytest.raises(SystemExit) as ended:
        main([*given, str(tmp_path / "model"), "--device", "cpu"])
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert (ended.value.code, "attention window of 0 tokens" in line) == (1, True)


@pytest.mark.parametrize("data", [b"", b"GGUF", b"GGUF" + b"\xff" * 60, b"\x00" * 100])
def test_a_broken_gguf_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "broken.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="could not be converted") as caught:
        snapshot_of_gguf(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff" * 100])
def test_a_damaged_adapter_is_one_line(saved: Path, tmp_path: Path, damage: bytes) -> None:
    from peft import LoraConfig, get_peft_model

    base = load_model(str(saved), device="cpu")
    tuned: Any = get_peft_model(base.model, LoraConfig(target_modules="all-linear"))
    tuned.save_pretrained(str(tmp_path))
    (tmp_path / "adapter_model.safetensors").write_bytes(damage)
    with pytest.raises(ModelError, match="does not fit") as caught:
        load_model(str(tmp_path), device="cpu")
    assert "\n" not in str(caught.value)


def test_bundled_vectors_are_sound() -> None:
    for name in bundled_vectors():
        is_sound(load_vector(name))


def test_json_is_as_python_reads_it() -> None:
    value = {"a": [1, 2.5, None, True, "é"], "b": {"c": "\U0001f600"}}
    assert parse_json(json.dumps(value)) == value
