"""A vector comes back as it was saved, fits its model or is refused, and shows itself safely."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file

from personavec import LoadedModel, PersonaVector, cosine, load_vector, project_conversation
from personavec.errors import DataError, UsageError, VectorMismatchError
from personavec.model import capture_means

TENSORS = (
    "response_mean_diff",
    "prompt_mean_diff",
    "prompt_last_diff",
    "residual_norm",
    "neutral_response_mean",
    "neutral_prompt_last",
)


@pytest.fixture
def vector(llama: LoadedModel, random_vector: Callable[..., PersonaVector]) -> PersonaVector:
    return random_vector(llama, layer=3)


def test_saved_and_loaded_is_the_same(tmp_path: Path, vector: PersonaVector) -> None:
    """Bit for bit, from a path or its text; nothing is left aside."""
    vector.save(tmp_path / "odd")
    assert {p.name for p in (tmp_path / "odd").iterdir()} == {"vector.safetensors", "vector.json"}
    for source in (tmp_path / "odd", str(tmp_path / "odd")):
        found = load_vector(source)
        assert (found.trait, found.layer) == (vector.trait, vector.layer)
        assert found.meta.items() >= vector.meta.items()
        assert found.coherent_range == (-1.0, 1.5)
        for name in TENSORS:
            assert torch.equal(getattr(found, name), getattr(vector, name))


def test_a_layer_of_it_can_be_saved_without_its_neighbours(
    tmp_path: Path, vector: PersonaVector
) -> None:
    """Tensors that are views of one another are no obstacle."""
    shared = dataclasses.replace(vector, prompt_mean_diff=vector.response_mean_diff)
    shared.save(tmp_path)
    assert torch.equal(load_vector(tmp_path).prompt_mean_diff, vector.response_mean_diff)


def test_the_selected_estimators_tensor_is_the_vector(
    tmp_path: Path, vector: PersonaVector
) -> None:
    """It steers and projects; the mean difference keeps its name and meaning beside it."""
    logistic = torch.flip(vector.response_mean_diff, dims=[1])
    both = dataclasses.replace(vector, estimated={"logistic": logistic}, estimator="logistic")
    found = load_vector(both.save(tmp_path))
    assert found.estimator == "logistic"
    assert torch.equal(found.direction(2), logistic[2])
    assert torch.equal(found.directions, logistic)
    assert torch.equal(found.response_mean_diff, vector.response_mean_diff)
    other = load_vector(dataclasses.replace(both, estimator="mean").save(tmp_path))
    assert torch.equal(other.direction(2), vector.response_mean_diff[2])


def test_the_other_estimator_comes_with_its_own_baseline(
    tmp_path: Path, vector: PersonaVector
) -> None:
    """Without one there is nothing to standardise by, so it is refused."""
    logistic = torch.flip(vector.response_mean_diff, dims=[1])
    neutral = torch.rand(2, *vector.neutral_prompt_last.shape)
    held = dataclasses.replace(
        vector, estimated={"logistic": logistic}, estimated_neutral={"logistic": neutral}
    )
    found = load_vector(held.save(tmp_path)).by("logistic")
    assert torch.equal(found.direction(2), logistic[2])
    assert torch.equal(found.neutral_response_mean, neutral[0])
    assert torch.equal(found.neutral_prompt_last, neutral[1])
    assert found.hash != held.hash
    assert held.by("mean") is held
    for lacking, wanted in ((vector, "logistic"), (found, "mean")):
        with pytest.raises(UsageError, match=f"no neutral statistics of the {wanted} estimator"):
            lacking.by(wanted)


def test_a_vector_from_before_there_were_estimators_is_a_mean_difference(
    tmp_path: Path, vector: PersonaVector
) -> None:
    vector.save(tmp_path)
    record = json.loads((tmp_path / "vector.json").read_text("utf-8"))
    del record["estimator"]
    (tmp_path / "vector.json").write_text(json.dumps(record))
    found = load_vector(tmp_path)
    assert (found.estimator, found.estimated) == ("mean", {})


@pytest.mark.parametrize("estimator", ["logistic", "other"])
def test_an_estimator_without_its_tensor_is_damage(
    tmp_path: Path, vector: PersonaVector, estimator: str
) -> None:
    vector.save(tmp_path)
    record = json.loads((tmp_path / "vector.json").read_text("utf-8"))
    (tmp_path / "vector.json").write_text(json.dumps({**record, "estimator": estimator}))
    with pytest.raises(DataError, match=f"no tensor of estimator '{estimator}'|estimator: Input"):
        load_vector(tmp_path)


def test_no_vector_there_is_bad_usage(tmp_path: Path) -> None:
    """The message says what makes one."""
    for source in (tmp_path, tmp_path / "none", "no-such-trait"):
        with pytest.raises(UsageError, match="personavec extract"):
            load_vector(source)


def tear_json(folder: Path) -> None:
    (folder / "vector.json").write_text('{"trait": "x"')


def drop_layer(folder: Path) -> None:
    (folder / "vector.json").write_text('{"trait": "x"}')


def layer_too_deep(folder: Path) -> None:
    (folder / "vector.json").write_text('{"trait": "x", "layer": 99}')


def layer_is_text(folder: Path) -> None:
    (folder / "vector.json").write_text('{"trait": "x", "layer": "3"}')


def no_object(folder: Path) -> None:
    (folder / "vector.json").write_text("[]")


def tear_tensors(folder: Path) -> None:
    path = folder / "vector.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def remove_tensors(folder: Path) -> None:
    (folder / "vector.safetensors").unlink()


def replace_tensor(folder: Path, name: str, value: torch.Tensor) -> None:
    path = folder / "vector.safetensors"
    save_file({**load_file(path), name: value}, path)


def drop_tensor(folder: Path) -> None:
    path = folder / "vector.safetensors"
    found = load_file(path)
    del found["residual_norm"]
    save_file(found, path)


def other_shape(folder: Path) -> None:
    replace_tensor(folder, "prompt_mean_diff", torch.zeros(2, 32))


def short_norms(folder: Path) -> None:
    replace_tensor(folder, "residual_norm", torch.ones(2))


def nan(folder: Path) -> None:
    replace_tensor(folder, "residual_norm", torch.full((5,), float("nan")))


@pytest.mark.parametrize(
    "damage",
    [
        tear_json,
        drop_layer,
        layer_too_deep,
        layer_is_text,
        no_object,
        tear_tensors,
        remove_tensors,
        drop_tensor,
        other_shape,
        short_norms,
        nan,
    ],
)
def test_a_damaged_vector_is_refused(
    tmp_path: Path, vector: PersonaVector, damage: Callable[[Path], None]
) -> None:
    """With the folder and the remedy, whatever is wrong with which file."""
    vector.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=r"damaged|holds NaN") as caught:
        load_vector(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "is damaged"),
        ('{"vector": "another", "ordinary": {}}', "is damaged"),
        (
            '{"vector": "another", "reading": "response_mean_sigma", '
            '"ordinary": {"turns": [[0, 1]], '
            '"conversation": {"weight": 0.5, "limit": 3}, "server": {"weight": 0.05, "limit": 3}, '
            '"n": 60}}',
            "was measured of another vector",
        ),
        (
            '{"vector": "another", "reading": "prompt_last_sigma", '
            '"ordinary": {"turns": [[0, 1]], '
            '"conversation": {"weight": 0.5, "limit": 3}, "server": {"weight": 0.05, "limit": 3}, '
            '"n": 60}}',
            "is damaged .its limits are of prompt_last_sigma",
        ),
    ],
)
def test_drift_limits_that_are_not_its_own_name_what_fits_them_again(
    tmp_path: Path, vector: PersonaVector, text: str, wrong: str
) -> None:
    vector.save(tmp_path)
    (tmp_path / "drift.json").write_text(text)
    with pytest.raises(DataError, match=rf"drift\.json {wrong}.*delete it, and .*--fit-limits"):
        load_vector(tmp_path)


@pytest.mark.parametrize(("n_layers", "hidden_size"), [(3, 32), (4, 64)])
def test_a_model_of_another_shape_is_refused_with_the_reason(
    vector: PersonaVector, n_layers: int, hidden_size: int
) -> None:
    """Both shapes, the vector's own model, and what to do."""
    vector.check_fits(4, 32)
    with pytest.raises(VectorMismatchError) as caught:
        vector.check_fits(n_layers, hidden_size)
    for part in ("4 layers of width 32", "tiny-llama", f"{n_layers} of width {hidden_size}"):
        assert part in str(caught.value)
    assert "extract the trait on this model" in str(caught.value)


def test_another_model_of_the_same_shape_warns_unless_it_descends(vector: PersonaVector) -> None:
    """Its name, or the base that it declares, settles it."""
    assert vector.other_model_warning("tiny-llama") is None
    assert vector.other_model_warning("tuned", "tiny-llama") is None
    assert "extracted from tiny-llama" in (vector.other_model_warning("stranger") or "")


def test_other_weights_under_the_same_name_warn_where_both_are_known(
    llama: LoadedModel, vector: PersonaVector
) -> None:
    name, _, weights = llama.identity.lineage
    assert vector.other_model_warning(name, None, weights) is None
    assert "other weights" in (vector.other_model_warning(name, None, "others") or "")
    older = dataclasses.replace(vector, meta={"model": {"name": name}})
    assert older.other_model_warning(name, None, weights) is None
    # A base under another name settles it: the tuned model's weights are others by nature.
    assert vector.other_model_warning("tuned", name, "others") is None
    # The same weights under another name are the same model, moved.
    assert vector.other_model_warning("moved/to/here", None, weights) is None


def test_it_shows_itself_without_running_what_it_holds(vector: PersonaVector) -> None:
    """Names are text in a notebook, whatever they contain."""
    hostile = dataclasses.replace(
        vector,
        meta={"model": {"name": "<script>alert(1)</script>"}, "coherent_range": None},
    )
    shown = hostile._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "not measured" in shown
    assert "layer=3 of 4" in repr(vector)


def test_projection_is_the_component_along_the_direction(vector: PersonaVector) -> None:
    """h·v/‖v‖: v itself projects to its norm, −2v to −2 times that, what is orthogonal to 0."""
    v = vector.direction()
    other = torch.randn(32, generator=torch.Generator().manual_seed(0))
    orthogonal = other - v * (other @ v) / (v @ v)
    found = vector.project(torch.stack([v, -2 * v, orthogonal, v + orthogonal]))
    expected = torch.stack([v.norm(), -2 * v.norm(), torch.tensor(0.0), v.norm()])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    other_layer = vector.direction(1)
    torch.testing.assert_close(vector.project(v, layer=1), v @ other_layer / other_layer.norm())


@pytest.mark.parametrize("layer", [-1, 5])
def test_a_layer_that_it_does_not_have_is_refused(vector: PersonaVector, layer: int) -> None:
    """Rows are 0 to 4."""
    with pytest.raises(UsageError, match=f"layer {layer} does not exist: use 0 to 4"):
        vector.direction(layer)


def test_relative_dose_is_a_share_of_the_residual_norm(vector: PersonaVector) -> None:
    """‖αv‖ over the mean norm there (1 here), whatever α's sign."""
    assert vector.relative_dose(-2) == pytest.approx(2 * float(vector.direction().norm()))


@given(scale=st.floats(0.01, 100), seed=st.integers(0, 9))
def test_cosine_knows_no_length(scale: float, seed: int) -> None:
    """1 for a positive multiple, −1 for a negative one."""
    v = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(cosine(v, scale * v), torch.ones(3))
    torch.testing.assert_close(cosine(v, -scale * v), -torch.ones(3))


def test_a_conversation_is_projected_turn_by_turn(
    llama: LoadedModel, vector: PersonaVector
) -> None:
    """Last prompt token and response mean of each assistant turn, recomputed by hand."""
    messages = [
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Bye."},
    ]
    found = project_conversation(llama, vector, messages)
    assert [reading.turn for reading in found] == [1, 3]
    for reading in found:
        prompt = llama.chat.prompt_ids(messages[: reading.turn])
        response = llama.chat.response_ids(messages[reading.turn]["content"])
        start, row = len(prompt), [*prompt, *response]
        spans = [(start - 1, start), (start, len(row))]
        means = capture_means(llama.model, [row], [spans], layers=[3])[0, :, 0]
        last, mean = vector.project(means).tolist()
        assert reading.prompt_last == pytest.approx(last, abs=1e-4)
        assert reading.response_mean == pytest.approx(mean, abs=1e-4)
        # The neutral baseline of this vector is mean 0, spread 1.
        assert reading.response_mean_sigma == pytest.approx(mean, abs=1e-4)


def test_a_conversation_without_an_answer_is_refused(
    llama: LoadedModel, vector: PersonaVector
) -> None:
    """No assistant turn, or an empty one, which is named."""
    user = {"role": "user", "content": "Hi?"}
    with pytest.raises(DataError, match="no assistant turn"):
        project_conversation(llama, vector, [user])
    with pytest.raises(DataError, match="message 2 is an empty"):
        project_conversation(llama, vector, [user, {"role": "assistant", "content": ""}])


def test_meta_is_plain_json(tmp_path: Path, vector: PersonaVector) -> None:
    """Anyone can read it without this package."""
    vector.save(tmp_path)
    found = json.loads((tmp_path / "vector.json").read_text("utf-8"))
    assert (found["trait"], found["layer"], found["model"]["name"]) == ("testing", 3, "tiny-llama")
