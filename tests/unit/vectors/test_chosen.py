"""What is chosen of vectors: a layer, and the specs of their traits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from personavec import LoadedModel, load_trait, load_vector
from personavec.errors import UsageError
from personavec.vectors import check_layer, specs_of


def test_a_layer_that_a_vector_lacks_is_bad_usage() -> None:
    for layer in (None, "all", 1, 30):
        check_layer(layer, [load_vector("evil")])
    for layer in (-1, 0, 31):
        with pytest.raises(UsageError, match="layers 1 to 30"):
            check_layer(layer, [load_vector("evil")])


def test_specs_are_bundled_or_given(tmp_path: Path, llama: LoadedModel, random_vector: Any) -> None:
    evil, own = (replace(random_vector(llama, layer=2), trait=t) for t in ("evil", "formal"))
    with pytest.raises(UsageError, match="'formal' is not bundled: give its spec file"):
        specs_of([evil, own])
    path = tmp_path / "formal.json"
    path.write_text(load_trait("evil")[0].model_copy(update={"name": "formal"}).model_dump_json())
    assert [spec.name for spec in specs_of([evil, own], [str(path)])] == ["evil", "formal"]
