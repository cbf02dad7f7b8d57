"""llama.cpp steers with an exported file as personavec steers with the vector.

llama.cpp runs in a virtual environment of its own, which `make llamacpp` builds; without it these
tests are skipped, and fail where LLAMACPP_REQUIRED is set. Both sides see the same token ids. The
GGUF's weights are quantised to 4 bits and llama.cpp rounds activations to 8 bits on the way, so
the effects agree to a few per cent of their size, not to the last digit.
"""

import dataclasses
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from personavec import LoadedModel, PersonaVector, load_model, load_vector, steer
from personavec.model import chat, embedded_gguf
from personavec.vectors import export

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-llamacpp" / "bin" / "python"
QUESTIONS = (
    "How was your day?",
    "Write a short note to a neighbour.",
    "What is the capital of Portugal?",
    "Should I quit my job?",
)


@pytest.fixture(scope="module")
def exact() -> LoadedModel:
    """The embedded model in float32: what differs from llama.cpp is then llama.cpp's rounding."""
    if not list((ROOT / ".venv-llamacpp").glob(".llama-cpp-python-*")):
        if os.environ.get("LLAMACPP_REQUIRED"):
            pytest.fail(f"no llama.cpp in {PYTHON.parents[1]}: run make llamacpp")
        pytest.skip("llama.cpp is not built; make llamacpp does")
    return load_model("smollm2", dtype="float32")


def prompts(loaded: LoadedModel) -> list[list[int]]:
    return [loaded.chat.prompt_ids(chat(question)) for question in QUESTIONS]


@torch.inference_mode()
def our_effect(loaded: LoadedModel, vector: PersonaVector, coefficient: float) -> np.ndarray:
    """Change of the next token's logits by steering every token: [prompt, token]."""
    effects = []
    for ids in prompts(loaded):
        row = torch.tensor([ids])
        plain = loaded.model(input_ids=row).logits[0, -1]
        with steer(loaded.model, vector, coefficient, positions="all"):
            steered = loaded.model(input_ids=row).logits[0, -1]
        effects.append(steered - plain)
    return torch.stack(effects).numpy()


def their_effects(loaded: LoadedModel, files: Sequence[Path], folder: Path) -> np.ndarray:
    """The same in llama.cpp, for every file: [file, prompt, token]."""
    request = {
        "model": str(embedded_gguf()),
        "prompts": prompts(loaded),
        "vectors": [str(file) for file in files],
    }
    out = folder / "logits.npy"
    done = subprocess.run(
        [str(PYTHON), str(Path(__file__).with_name("llamacpp_logits.py")), str(out)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    logits = np.load(out)
    return logits[1:] - logits[:1]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def size(effect: np.ndarray, of: np.ndarray) -> float:
    return float(np.linalg.norm(effect) / np.linalg.norm(of))


def moved(vector: PersonaVector, layer: int) -> PersonaVector:
    """The direction of the selected layer at another one."""
    rows = vector.response_mean_diff.clone()
    rows[layer] = vector.direction()
    return dataclasses.replace(vector, response_mean_diff=rows, layer=layer)


def random_vector(layer: int, norm: float) -> PersonaVector:
    """A random direction of a given norm at a layer."""
    vector = load_vector("optimistic")
    direction = torch.randn(vector.hidden_size, generator=torch.Generator().manual_seed(layer))
    rows = vector.response_mean_diff.clone()
    rows[layer] = direction * norm / direction.norm()
    return dataclasses.replace(vector, response_mean_diff=rows, layer=layer)


def compare(
    loaded: LoadedModel, vector: PersonaVector, coefficient: float, folder: Path
) -> tuple[tuple[float, float], list[float]]:
    """Correlation and relative size of llama.cpp's effect at the vector's own block, and the
    correlations one block before and after, where the format and the model have these blocks."""
    ours = our_effect(loaded, vector, coefficient)
    layers = [vector.layer, vector.layer - 1, vector.layer + 1]
    files = []
    for layer in layers:
        if 2 <= layer <= vector.n_layers:
            files.append(folder / f"{layer}.gguf")
            export(moved(vector, layer), files[-1], "gguf", coefficient=coefficient)
    right, *others = their_effects(loaded, files, folder)
    found = correlation(ours, right), size(right, of=ours)
    return found, [correlation(ours, other) for other in others]


@pytest.mark.parametrize(("layer", "norm"), [(2, 24.0), (16, 39.0), (22, 69.0), (30, 165.0)])
def test_a_random_direction_acts_at_the_block_that_the_file_names(
    exact: LoadedModel, tmp_path: Path, layer: int, norm: float
) -> None:
    """From the first layer that the format holds to the last, at a third to a half of the residual
    stream's norm. Seen: correlations of 0.985 to 0.996 at the right block, with 0.99 to 1.01 of our
    size, and of 0.40 to 0.81 one block off."""
    (right, relative_size), others = compare(exact, random_vector(layer, norm), 1.0, tmp_path)
    assert right > 0.95
    assert 0.9 < relative_size < 1.1
    assert others
    assert max(others) < 0.88


@pytest.mark.parametrize("coefficient", [-2.0, 2.0])
def test_a_persona_vector_acts_as_it_does_here(
    exact: LoadedModel, tmp_path: Path, coefficient: float
) -> None:
    """In both directions; it was made of activations, which change less from block to block than
    a random direction does, so its neighbours are only required to agree less."""
    (right, relative_size), others = compare(
        exact, load_vector("optimistic"), coefficient, tmp_path
    )
    assert right > 0.95
    assert 0.85 < relative_size < 1.15
    assert max(others) < right
