"""A vector in another tool's file steers what it steers here; a file that is no vector is refused.

Each format is read back by its own tool's code where that runs without a server: the gguf
package, hotwire's store, vllm-lens's message type.
"""

import dataclasses
import json
import os
import pickle
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from hotwire._state import SteerState, parse_spec
from hypothesis import HealthCheck, given, settings, strategies as st

from personavec import LoadedModel, PersonaVector, load_vector, project_conversation, steer
from personavec.cli.main import main
from personavec.errors import (
    DataError,
    PersonavecError,
    SettingsMismatchError,
    UsageError,
    VectorMismatchError,
)
from personavec.extract.config import ImportConfig
from personavec.extract.import_reference import run
from personavec.model import capture_means, chat
from personavec.runs import read_records
from personavec.traits import neutral_prompts
from personavec.vectors import export, read_reference
from personavec.vectors.formats import Format, write_reference

N_LAYERS, HIDDEN = 4, 32

# One folder serves all examples of a property: each writes its own file anew.
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)


@pytest.fixture
def vector(llama: LoadedModel, random_vector: Callable[..., PersonaVector]) -> PersonaVector:
    return random_vector(llama, layer=3)


# What comes out


def test_the_estimator_in_use_is_what_comes_out(tmp_path: Path, vector: PersonaVector) -> None:
    """In whole-vector files and in the increments of all layers, as at one layer."""
    logistic = dataclasses.replace(
        vector, estimated={"logistic": 2 * vector.response_mean_diff.flip(-1)}, estimator="logistic"
    )
    export(logistic, tmp_path / "logistic.pt", "pt")
    assert torch.equal(read_reference(tmp_path / "logistic.pt"), logistic.directions)
    export(logistic, tmp_path / "testing.pt", "hotwire")
    assert torch.equal(read_reference(tmp_path / "testing.pt"), logistic.directions[1:])
    whole = logistic.increments().cumsum(0) + logistic.directions[0]
    torch.testing.assert_close(whole, logistic.directions[1:])


def from_gguf(path: Path) -> tuple[int, torch.Tensor]:
    """The block, counted from 0, and the addition that llama.cpp takes from a file."""
    (tensor,) = GGUFReader(path).tensors
    return int(tensor.name.removeprefix("direction.")), torch.from_numpy(tensor.data.copy())


def from_hotwire(path: Path, request: str) -> tuple[int, torch.Tensor]:
    """The same, resolved by hotwire's own store from the request that the export printed."""
    state = SteerState(N_LAYERS, HIDDEN, 1, torch.device("cpu"), torch.float32, n_slots=1)
    state.load_store(str(path))
    body = json.loads(shlex.split(request)[-1])
    (spec,) = parse_spec(body["vllm_xargs"]["hotwire"]) or []
    slot = state.slot_for(spec["id"], spec["layer"], spec["scale"])
    assert slot is not None
    return spec["layer"], state.bank.scales[slot] * state.bank.bank[slot]


def from_vllm_lens(path: Path) -> tuple[int, torch.Tensor]:
    """The same, from the type that vllm-lens validates the request's JSON text with."""
    lens = pytest.importorskip("vllm_lens", reason="vllm-lens is not installed; make test does")
    (found,) = [lens.SteeringVector.model_validate(v) for v in json.loads(path.read_text("utf-8"))]
    assert not found.norm_match
    assert found.position_indices is None
    (block,) = found.layer_indices
    return block, found.scale * found.activations[found.layer_index_map[block]]


@pytest.mark.parametrize("layer", [2, 3, 4])
@pytest.mark.parametrize("to", ["gguf", "hotwire", "vllm-lens"])
def test_it_steers_there_as_here(
    llama: LoadedModel, vector: PersonaVector, tmp_path: Path, to: Format, layer: int
) -> None:
    """The file's addition at the block that the file names, counted from 0, gives our logits."""
    path = tmp_path / "odd name's.pt"
    found = export(vector, path, to, layer=layer, coefficient=-1.5)
    if to == "gguf":
        block, addition = from_gguf(path)
    elif to == "hotwire":
        block, addition = from_hotwire(path, found.use[-1])
    else:
        block, addition = from_vllm_lens(path)
    ids = torch.tensor([llama.chat.prompt_ids(chat("Hello?"))])
    module = llama.model.get_submodule(f"model.layers.{block}")

    def add(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output + addition

    with torch.inference_mode():
        with steer(llama.model, vector, -1.5, layer=layer, positions="all"):
            ours = llama.model(input_ids=ids).logits
        handle = module.register_forward_hook(add)
        theirs = llama.model(input_ids=ids).logits
        handle.remove()
        plain = llama.model(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - plain).abs().max() > 0.1


@one_folder
@given(layer=st.integers(2, N_LAYERS), coefficient=st.floats(-8, 8).filter(bool))
def test_a_control_vector_is_what_llama_cpp_reads(
    vector: PersonaVector, tmp_path: Path, layer: int, coefficient: float
) -> None:
    """Architecture, count and model as its tools write them; one float32 row, in one dimension."""
    path = tmp_path / "v.gguf"
    found = export(vector, path, "gguf", layer=layer, coefficient=coefficient)
    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "tiny-llama"
    assert fields["controlvector.layer_count"] == 1
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.data.dtype) == (f"direction.{layer - 1}", np.float32)
    np.testing.assert_allclose(
        tensor.data, coefficient * vector.direction(layer).numpy(), rtol=1e-6
    )
    assert (found.layers, found.coefficient) == ((layer,), coefficient)
    assert [p.name for p in tmp_path.iterdir()] == ["v.gguf"]


def test_all_layers_go_into_one_control_vector(vector: PersonaVector, tmp_path: Path) -> None:
    """Every one but the first, and the command picks the selected one."""
    found = export(vector, tmp_path / "v.gguf", "gguf", all_layers=True, coefficient=2)
    rows = {t.name: t.data for t in GGUFReader(tmp_path / "v.gguf").tensors}
    assert list(rows) == ["direction.1", "direction.2", "direction.3"]
    for n, row in enumerate(rows.values(), start=1):
        np.testing.assert_array_equal(row, 2 * vector.direction(n + 1).numpy())
    assert found.layers == (2, 3, 4)
    assert found.use[0].endswith("--control-vector-layer-range 2 2")


def test_hotwire_gets_every_block_and_calls_it_by_its_name(
    vector: PersonaVector, tmp_path: Path
) -> None:
    """Row i is block i counted from 0; the embedding is not among them; nothing is baked in."""
    export(vector, tmp_path / "kind.pt", "hotwire", coefficient=3)
    state = SteerState(N_LAYERS, HIDDEN, 1, torch.device("cpu"), torch.float32, n_slots=1)
    state.load_store(str(tmp_path))
    assert torch.equal(state.store["kind"][0], vector.response_mean_diff[1:])


def test_the_vllm_lens_request_carries_the_file_as_text(
    vector: PersonaVector, tmp_path: Path
) -> None:
    """vllm_xargs take texts, not objects, and their own dump has the same keys."""
    lens = pytest.importorskip("vllm_lens", reason="vllm-lens is not installed; make test does")
    found = export(vector, tmp_path / "v.json", "vllm-lens", coefficient=0.5)
    text = (tmp_path / "v.json").read_text("utf-8")
    (ours,) = json.loads(text)
    theirs = lens.SteeringVector(
        activations=vector.direction()[None], layer_indices=[2], scale=0.5
    ).model_dump(mode="json")
    assert {**ours, "activations": None} == {**theirs, "activations": None}
    assert ours["activations"].keys() == theirs["activations"].keys() - {"compression"}
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed: the printed request was not built")
    build, _ = found.use[1].split(" | ")
    body = json.loads(subprocess.run(build, shell=True, capture_output=True, check=True).stdout)
    assert body["vllm_xargs"] == {"apply_steering_vectors": text}


@one_folder
@given(
    rows=st.integers(3, 6),
    width=st.integers(1, 9),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_a_reference_file_comes_back_as_it_was(
    tmp_path: Path, rows: int, width: int, dtype: torch.dtype, seed: int
) -> None:
    """Whatever precision it was saved in; ours is read by their call, bit for bit."""
    tensor = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).to(dtype)
    torch.save(tensor, tmp_path / "theirs.pt")
    found = read_reference(tmp_path / "theirs.pt", rows - 1, width)
    assert torch.equal(found, tensor.float())
    write_reference(found, tmp_path / "ours.pt")
    assert torch.equal(torch.load(tmp_path / "ours.pt", weights_only=False), found)


def test_a_slice_is_saved_without_the_rest(vector: PersonaVector, tmp_path: Path) -> None:
    """A view's storage is the whole tensor's, which would travel along unseen."""
    wide = torch.randn(5, 10_000)
    write_reference(wide[:, :4], tmp_path / "v.pt")
    assert (tmp_path / "v.pt").stat().st_size < 5_000


# What cannot be written


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("gguf", {"layer": 1}, "cannot hold layer 1.*use --layer 2 to 4"),
        ("gguf", {"layer": 0}, "layer 0 is the embedding.*use --layer 1 to 4"),
        ("hotwire", {"layer": 0}, "layer 0 is the embedding"),
        ("vllm-lens", {"layer": 0}, "layer 0 is the embedding"),
        ("gguf", {"layer": 5}, "layer 5 does not exist: use 0 to 4"),
        ("pt", {"layer": 3}, "names none: leave out --layer"),
        ("pt", {"coefficient": 2.0}, "leave out --layer and --coefficient"),
        ("gguf", {"coefficient": 0.0}, "coefficient 0 steers nothing"),
        ("gguf", {"coefficient": float("nan")}, "coefficient nan"),
        ("vllm-lens", {"all_layers": True}, "--all-layers is for --format gguf"),
        ("gguf", {"all_layers": True, "layer": 2}, "--all-layers is for"),
    ],
)
def test_a_format_that_cannot_hold_it_is_refused(
    vector: PersonaVector, tmp_path: Path, to: Format, options: dict[str, Any], message: str
) -> None:
    """In one line, and no file is left."""
    with pytest.raises(UsageError, match=message):
        export(vector, tmp_path / "v.pt", to, **options)
    assert list(tmp_path.iterdir()) == []


def test_hotwire_needs_a_name_in_pt(vector: PersonaVector, tmp_path: Path) -> None:
    """It is the vector's id in every request."""
    with pytest.raises(UsageError, match=r"ends in \.pt"):
        export(vector, tmp_path / "kind.bin", "hotwire")


# What comes in


class RunsCode:
    """Pickled, it is a call that makes a folder as soon as it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


BAD: list[tuple[str, Callable[[Path], Any], type[PersonavecError], str]] = [
    ("needs unpickling", RunsCode, DataError, "unpickling it could run code"),
    ("numpy", lambda _: np.zeros((5, 32)), DataError, "unpickling it could run code"),
    ("dict", lambda _: {"v": torch.zeros(5, 32)}, DataError, "holds a dict"),
    ("list", lambda _: [torch.zeros(5, 32)], DataError, "holds a list"),
    ("one row", lambda _: torch.zeros(32), DataError, r"float32 tensor \[32\]"),
    ("stack", lambda _: torch.zeros(1, 5, 32), DataError, r"tensor \[1, 5, 32\]"),
    ("whole numbers", lambda _: torch.zeros(5, 32).long(), DataError, "a int64 tensor"),
    ("sparse", lambda _: torch.zeros(5, 32).to_sparse(), DataError, "float32 tensor"),
    ("NaN", lambda _: torch.full((5, 32), float("nan")), DataError, "NaN or infinite"),
    ("no embedding", lambda _: torch.ones(4, 32), VectorMismatchError, r"\[4, 32\].*\[5, 32\]"),
    ("other width", lambda _: torch.ones(5, 64), VectorMismatchError, "--model"),
]


@pytest.mark.parametrize(
    ("make", "error", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_a_file_that_is_no_vector_is_refused(
    llama: LoadedModel,
    tmp_path: Path,
    make: Callable[[Path], Any],
    error: type[PersonavecError],
    message: str,
) -> None:
    """In one line that names it; what is pickled in it never runs; no folder is made."""
    path, trap, out = tmp_path / "v.pt", tmp_path / "trap", tmp_path / "out"
    torch.save(make(trap), path)
    with pytest.raises(error, match=message) as caught:
        run(llama, path, "odd", out)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not trap.exists()
    assert not out.exists()


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    """Nothing in it runs, although it is not in torch's container."""
    path, trap = tmp_path / "v.pt", tmp_path / "trap"
    path.write_bytes(pickle.dumps(RunsCode(trap)))
    with pytest.raises(DataError, match="could run code"):
        read_reference(path)
    assert not trap.exists()


@one_folder
@given(content=st.binary(max_size=200))
def test_any_other_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Whatever is in it, also the first half of a sound one."""
    path = tmp_path / "v.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"v\.pt"):
        read_reference(path)
    torch.save(torch.zeros(5, 32), path)
    path.write_bytes(path.read_bytes()[: 8 * len(content)])
    with pytest.raises(DataError, match=r"v\.pt"):
        read_reference(path)


def test_no_such_file(tmp_path: Path) -> None:
    """Said plainly."""
    with pytest.raises(DataError, match="no such file"):
        read_reference(tmp_path / "none.pt")


# What comes in is whole

SHORT = ImportConfig(neutral_prompts=4, max_tokens=6, batch_tokens=600)
CONVERSATION = [*chat("Hi?"), {"role": "assistant", "content": "Hello."}]


def test_an_imported_vector_steers_and_reads(llama: LoadedModel, tmp_path: Path) -> None:
    """Directions as given, the middle layer, and a baseline measured by another route the same."""
    rows = torch.randn(5, 32, generator=torch.Generator().manual_seed(3))
    torch.save(rows, tmp_path / "odd.pt")
    found = run(llama, tmp_path / "odd.pt", "odd", tmp_path / "out", SHORT)
    vector = load_vector(found.vector)
    assert torch.equal(vector.response_mean_diff, rows)
    assert (vector.trait, vector.layer, vector.coherent_range) == ("odd", 2, None)
    assert (vector.prompt_mean_diff, vector.prompt_last_diff) == (None, None)
    assert vector.other_model_warning("tiny-llama") is None
    assert any("final norm" in note for note in found.notes)
    assert vector.meta["notes"] == list(found.notes)
    assert vector.meta["engine"] == "transformers"
    assert "not measured" in vector._repr_html_()

    answers = read_records(tmp_path / "out" / "run" / "neutral-prompts" / "generated.jsonl")
    assert {a["question"] for a in answers} == set(neutral_prompts()[:4])
    texts, spans = [], []
    for answer in answers:
        prompt = llama.chat.prompt_ids(chat(answer["question"]))
        texts.append([*prompt, *answer["response_ids"]])
        spans.append([(len(prompt), len(texts[-1])), (len(prompt) - 1, len(prompt))])
    means = capture_means(llama.model, texts, spans)
    torch.testing.assert_close(
        vector.residual_norm, means[:, 0].norm(dim=-1).mean(0), atol=1e-4, rtol=1e-4
    )
    projected = means @ (rows[2] / rows[2].norm())
    baselines = (vector.neutral_response_mean, vector.neutral_prompt_last)
    for span, baseline in enumerate(baselines):
        values = projected[:, span, 2]
        expected = torch.stack([values.mean(), values.std()])
        torch.testing.assert_close(baseline[2], expected, atol=1e-4, rtol=1e-4)

    (reading,) = project_conversation(llama, vector, CONVERSATION)
    mean, spread = vector.neutral_response_mean[2].tolist()
    assert reading.response_mean_sigma == pytest.approx((reading.response_mean - mean) / spread)
    ids = torch.tensor([llama.chat.prompt_ids(chat("Hi?"))])
    with torch.inference_mode():
        plain = llama.model(input_ids=ids).logits[0, -1]
        with steer(llama.model, vector, 2):
            steered = llama.model(input_ids=ids).logits[0, -1]
    assert not torch.allclose(plain, steered)


def test_a_vector_that_went_out_comes_back(
    llama: LoadedModel, vector: PersonaVector, tmp_path: Path
) -> None:
    """Directions bit for bit, and again with the files that the reference project lays beside."""
    names = ("odd_response_avg_diff.pt", "odd_prompt_avg_diff.pt", "odd_prompt_last_diff.pt")
    export(vector, tmp_path / names[0], "pt")
    assert vector.prompt_mean_diff is not None
    assert vector.prompt_last_diff is not None
    write_reference(vector.prompt_mean_diff, tmp_path / names[1])
    write_reference(vector.prompt_last_diff, tmp_path / names[2])
    run(llama, tmp_path / names[0], "odd", tmp_path / "out", dataclasses.replace(SHORT, layer=3))
    found = load_vector(tmp_path / "out")
    for name in ("response_mean_diff", "prompt_mean_diff", "prompt_last_diff"):
        assert torch.equal(getattr(found, name), getattr(vector, name))
    assert found.layer == 3


@pytest.mark.parametrize(
    ("layer", "message"),
    [(4, "read after the final norm; use 1 to 3"), (0, "cannot be steered"), (9, "use 1 to 3")],
)
def test_a_row_that_cannot_be_used_is_not_selected(
    llama: LoadedModel, vector: PersonaVector, tmp_path: Path, layer: int, message: str
) -> None:
    """The last one above all, which is on the other side of the norm."""
    export(vector, tmp_path / "v.pt", "pt")
    with pytest.raises(UsageError, match=message):
        run(llama, tmp_path / "v.pt", "odd", tmp_path / "out", ImportConfig(layer=layer))
    assert not (tmp_path / "out").exists()


def test_a_row_of_zeros_is_not_selected(
    llama: LoadedModel, vector: PersonaVector, tmp_path: Path
) -> None:
    """Nothing projects onto it."""
    rows = vector.response_mean_diff.clone()
    rows[2] = 0
    export(dataclasses.replace(vector, response_mean_diff=rows), tmp_path / "v.pt", "pt")
    with pytest.raises(DataError, match="row 2 is zero"):
        run(llama, tmp_path / "v.pt", "odd", tmp_path / "out")


def test_another_file_does_not_continue_an_import(
    llama: LoadedModel, vector: PersonaVector, tmp_path: Path
) -> None:
    """The folder remembers the file by its content; the same one changes nothing."""
    path, out = tmp_path / "v.pt", tmp_path / "out"
    export(vector, path, "pt")
    run(llama, path, "odd", out, SHORT)
    before = (out / "vector.safetensors").read_bytes()
    run(llama, path, "odd", out, SHORT)
    assert (out / "vector.safetensors").read_bytes() == before
    write_reference(-vector.response_mean_diff, path)
    with pytest.raises(SettingsMismatchError, match="sha256"):
        run(llama, path, "odd", out, SHORT)


# The command line


@pytest.mark.parametrize("to", ["pt", "gguf", "vllm-lens", "hotwire"])
def test_export_prints_what_it_wrote(
    to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One JSON object for machines; for people the layer and the command that uses it."""
    out = tmp_path / "optimistic.pt"
    arguments = ["export", "--vectors", "optimistic", "--format", to, "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["out"] == str(out)
    assert out.stat().st_size > 0
    assert load_vector("optimistic").layer in found["layers"]
    with pytest.raises(SystemExit):
        main(arguments)
    shown = capsys.readouterr().out
    assert all(line in shown for line in found["use"])


def test_a_bad_file_is_refused_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model does not even exist here; exit code 1, one line."""
    torch.save({"v": torch.zeros(5, 32)}, tmp_path / "v.pt")
    out = str(tmp_path / "out")
    with pytest.raises(SystemExit) as ended:
        main(["import", str(tmp_path / "v.pt"), "--trait", "odd", "--model", "none", "--out", out])
    assert ended.value.code == 1
    assert "holds a dict" in capsys.readouterr().err
