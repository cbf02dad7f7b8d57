"""Screening on a real Ray cluster of several nodes on this machine: nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_models
import torch
from killed_runs import kill_when

from personavec import LoadedModel, PersonaVector, load_model
from personavec.data import parts
from personavec.errors import DataError, SettingsMismatchError
from personavec.progress import Progress
from personavec.results import read
from personavec.screen import ScreenResults, pipeline as screen

pytestmark = pytest.mark.cluster

pytest.importorskip("ray", reason="needs the extra 'ray'")

from personavec.screen.cluster import on_ray  # noqa: E402

ROWS, WINDOW = 160, 4
QUIET = Progress(quiet=True)

# A driver of its own, to be killed. It reads what it is to do from its arguments.
DRIVER = """
import sys
from pathlib import Path
from personavec import load_model, load_vector, screen
from personavec.progress import Progress
from personavec.data import parts
model, vector, data, out, address, window = sys.argv[1:]
parts.WINDOW = int(window)
screen.run(load_model(model, dtype="float32"), [load_vector(vector)], [data], Path(out),
           ray=address, progress=Progress(quiet=True))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node that works on nothing: tests add workers. No usage statistics, no dashboard."""
    before = dict(os.environ)
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        # Nodes then know each other by the loopback address, and nothing listens elsewhere.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    from ray.cluster_utils import Cluster

    found = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": 100 << 20,
            "include_dashboard": False,
            # A node that is gone is known to be so within seconds; one that is slow has time.
            "_system_config": {
                "health_check_period_ms": 500,
                "health_check_timeout_ms": 60_000,
            },
        },
    )
    yield found
    found.shutdown()
    os.environ.clear()
    os.environ |= before


@pytest.fixture
def workers(cluster: Any) -> Callable[[int], list[Any]]:
    """Brings the cluster to so many worker nodes of one core each, and returns them.

    Nodes start slowly, so those of the test before stay.
    """

    def bring_to(n: int) -> list[Any]:
        found = [node for node in cluster.list_all_nodes() if node is not cluster.head_node]
        for node in found[n:]:
            cluster.remove_node(node, allow_graceful=False)
        found = found[:n]
        while len(found) < n:
            found.append(cluster.add_node(num_cpus=1, object_store_memory=100 << 20))
        return found

    return bring_to


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny Llama of the unit tests, in a folder that every node can load."""
    folder = tmp_path_factory.mktemp("model")
    tiny_models.save(tiny_models.build("llama"), folder)
    return str(folder)


@pytest.fixture(scope="module")
def loaded(model: str) -> LoadedModel:
    return load_model(model, dtype="float32")


@pytest.fixture(scope="module")
def vector(loaded: LoadedModel) -> PersonaVector:
    n, hidden = loaded.identity.n_layers + 1, loaded.identity.hidden_size
    diffs = torch.randn(3, n, hidden, generator=torch.Generator().manual_seed(1))
    baseline = torch.tensor([[0.0, 1.0]]).repeat(n, 1)
    return PersonaVector(
        *diffs,
        residual_norm=torch.ones(n),
        neutral_response_mean=baseline,
        neutral_prompt_last=baseline.clone(),
        trait="testing",
        layer=2,
        meta={"model": loaded.identity.as_dict(), "coherent_range": [-1.0, 1.5]},
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of rows, with lines among them that are none, in several ways."""
    rng = random.Random(0)
    words = ["rain", "stone", "river", "lamp", "quiet", "ember", "north", "salt", "paper", "glass"]
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for i in range(ROWS):
        said = " ".join(rng.choices(words, k=rng.randint(3, 30)))
        lines.append(json.dumps({"id": f"r{i}", "prompt": f"Say {i % 40}.", "completion": said}))
        if i % 50 == 7:
            lines.append('{"prompt": "cut off')
        if i % 90 == 11:
            lines.append("")
        if i % 70 == 13:
            lines.append(json.dumps({"prompt": "and?", "completion": ""}))
    middle = len(lines) // 2 + 3
    (folder / "a.jsonl").write_text("\n".join(lines[:middle]) + "\n")
    (folder / "b.jsonl").write_text("\n".join(lines[middle:]) + "\n")
    return folder


@pytest.fixture(scope="module")
def alone(
    loaded: LoadedModel, vector: PersonaVector, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The single process's run."""
    out = tmp_path_factory.mktemp("alone")
    screen.run(loaded, [vector], [data], out, progress=QUIET)
    return out


def _rows(out: Path, name: str = "rows") -> list[dict[str, Any]]:
    """What one process wrote as a file, and a cluster as parts."""
    whole = out / f"{name}.jsonl"
    if whole.exists():
        return [json.loads(line) for line in whole.read_text().splitlines()]
    tables = [pq.read_table(path) for path in sorted((out / name).iterdir())]
    return [row for table in tables for row in table.to_pylist()]


def _rejects(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]


def _scores(out: Path) -> tuple[list[int], np.ndarray]:
    """Every scored place in the input, and its projections onto all directions."""
    tables = [pq.read_table(path) for path in parts.written(next((out / "run").glob("0-*")))]
    index = [i for table in tables for i in table["index"].to_pylist()]
    return index, np.concatenate([parts.matrix(table, "projection") for table in tables])


def _assert_same(out: Path, alone: Path) -> None:
    """Each row once, in order, with the columns it had and the scores of the single process."""
    index, scores = _scores(out)
    expected_index, expected = _scores(alone)
    assert index == expected_index == list(range(len(index)))
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    for mine, theirs in zip(_rows(out), _rows(alone), strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert mine[name] == (
                pytest.approx(value, abs=1e-4) if isinstance(value, float) else value
            )
    assert _rejects(out) == _rejects(alone)


def _wait(until: Callable[[], bool], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def test_a_worker_node_that_dies_loses_and_doubles_no_row(
    cluster: Any,
    workers: Callable[[int], list[Any]],
    loaded: LoadedModel,
    vector: PersonaVector,
    data: Path,
    alone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "WINDOW", WINDOW)
    # The only worker there is: what it has in its hands, and in its object store, dies with it.
    [doomed] = workers(1)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(
            screen.run, loaded, [vector], [data], tmp_path, ray=cluster.address, progress=QUIET
        )
        _wait(lambda: run.done() or len(_parts(tmp_path)) >= 3)
        assert not run.done(), "the run was over before the node died"
        cluster.remove_node(doomed, allow_graceful=False)
        before = len(_parts(tmp_path))
        workers(1)
        run.result()
    assert before < len(_parts(tmp_path))
    _assert_same(tmp_path, alone)


def test_too_many_bad_rows_stop_a_cluster_too(
    cluster: Any,
    workers: Callable[[int], list[Any]],
    loaded: LoadedModel,
    vector: PersonaVector,
    data: Path,
    tmp_path: Path,
) -> None:
    workers(1)
    config = screen.ScreenConfig(max_rejects=2)
    with pytest.raises(DataError, match="more than --max-rejects 2"):
        screen.run(loaded, [vector], [data], tmp_path, config, ray=cluster.address, progress=QUIET)
    assert "not JSON" in _rejects(tmp_path)[0]["reason"]


def test_a_killed_driver_goes_on_with_what_is_not_finished(
    cluster: Any,
    workers: Callable[[int], list[Any]],
    model: str,
    vector: PersonaVector,
    data: Path,
    alone: Path,
    tmp_path: Path,
) -> None:
    workers(1)
    vector.save(tmp_path / "vector")
    out = tmp_path / "out"
    driver = _driver(model, tmp_path / "vector", data, out, cluster.address)
    kill_when(lambda: len(_parts(out)) >= 3, driver)
    # Workers of the dead driver may still finish what they are at.
    time.sleep(2)
    finished = {path: path.stat().st_mtime_ns for path in _parts(out)}
    assert not (out / "results.json").exists(), "the run was over before its driver died"

    assert _driver(model, tmp_path / "vector", data, out, cluster.address).wait(600) == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(_parts(out)) > len(finished)
    _assert_same(out, alone)


def test_a_cluster_gives_what_one_process_gives(
    cluster: Any,
    workers: Callable[[int], list[Any]],
    loaded: LoadedModel,
    vector: PersonaVector,
    data: Path,
    alone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers(2)
    monkeypatch.setattr(parts, "WINDOW", WINDOW)
    monkeypatch.setattr(on_ray, "ROWS_PER_FILE", 40)
    results = screen.run(
        loaded, [vector], [data], tmp_path / "out", ray=cluster.address, progress=QUIET
    )
    _assert_same(tmp_path / "out", alone)
    written = sorted((tmp_path / "out" / "rows").iterdir())
    assert [path.name for path in written] == [f"{n:06d}.parquet" for n in range(5)]
    assert len({pq.read_schema(path) for path in written}) == 1
    [files] = [found for name, found in results.files.items() if name.startswith(data.name)]
    assert isinstance(files, dict)
    assert files["rows"] == str(tmp_path / "out" / "rows")
    expected = read(ScreenResults, alone / "results.json")
    assert results.rows == expected.rows
    assert results.rejected == expected.rejected > 0
    # A folder that a cluster writes is not one process's to go on with.
    with pytest.raises(SettingsMismatchError, match="ray was true, now false"):
        screen.run(loaded, [vector], [data], tmp_path / "out", progress=QUIET)


def test_natural_responses_are_the_same_from_a_cluster(
    cluster: Any,
    workers: Callable[[int], list[Any]],
    loaded: LoadedModel,
    vector: PersonaVector,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers(2)
    monkeypatch.setattr(parts, "WINDOW", 8)
    lines = (data / "a.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(lines[:32]))
    (tmp_path / "clean.jsonl").write_text("\n".join(lines[32:48]))
    # The reference's rows all have an exact side, scored by the workers; of the data's rows, the
    # chosen ones do, generated by the workers and read here.
    config = screen.ScreenConfig(
        natural="two-stage", natural_tokens=4, top_share=0.2, sample=4, subsets=3
    )
    monkeypatch.setattr(on_ray, "ROWS_PER_FILE", 8)

    def run(name: str, ray: str | None) -> ScreenResults:
        inputs, reference = [tmp_path / "rows.jsonl"], tmp_path / "clean.jsonl"
        return screen.run(
            loaded,
            [vector],
            inputs,
            tmp_path / name,
            config,
            reference=reference,
            ray=ray,
            progress=QUIET,
        )

    expected = run("alone", None).traits["testing"]
    with on_ray.connected(cluster.address):
        found = run("cluster", cluster.address).traits["testing"]
    assert found.two_stage is not None
    for name in ("mean", "low", "high", "threshold"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-4)
    exact = [row["testing_exact_difference"] for row in _rows(tmp_path / "alone")]
    assert sum(value is not None for value in exact) == 4 + found.two_stage.top
    assert [row["testing_exact_difference"] for row in _rows(tmp_path / "cluster")] == [
        value if value is None else pytest.approx(value, abs=1e-4) for value in exact
    ]
    for name in ("clean", "flagged", "subsets/testing/high", "subsets/testing/random"):
        ids = [row["id"] for row in _rows(tmp_path / "alone", name)]
        assert ids
        assert [row["id"] for row in _rows(tmp_path / "cluster", name)] == ids


def test_rows_of_changed_data_keep_their_own_scores_on_a_cluster(
    cluster: Any,
    workers: Callable[[int], list[Any]],
    loaded: LoadedModel,
    vector: PersonaVector,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows swapped, inserted and removed: each as a whole run of the new data scores it."""
    workers(1)
    monkeypatch.setattr(parts, "WINDOW", WINDOW)
    lines = [line for line in (data / "a.jsonl").read_text().splitlines() if '"r' in line][:24]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(lines) + "\n")

    def run(name: str, ray: str | None) -> ScreenResults:
        return screen.run(loaded, [vector], [rows], tmp_path / name, ray=ray, progress=QUIET)

    run("cluster", cluster.address)
    new = json.dumps({"id": "new", "prompt": "Say so.", "completion": "north ember salt"})
    bad = json.dumps({"prompt": "and?", "completion": ""})
    changed = [new, lines[20], *lines[1:10], *lines[12:20], lines[0], *lines[21:]]
    rows.write_text("\n".join([*changed, bad]) + "\n")
    found = run("cluster", cluster.address)
    run("alone", None)
    _assert_same(tmp_path / "cluster", tmp_path / "alone")
    assert [row["id"] for row in _rows(tmp_path / "cluster")] == [
        json.loads(line)["id"] for line in changed
    ]
    assert any("22 of its 24 rows are the same" in note for note in found.notes)
    rows.write_text(json.dumps({"prompt": "Other?", "completion": "Other."}) + "\n")
    with pytest.raises(SettingsMismatchError, match="none of the rows"):
        run("cluster", cluster.address)


def _driver(model: str, vector: Path, data: Path, out: Path, address: str) -> Any:
    arguments = [model, str(vector), str(data), str(out), address, str(WINDOW)]
    return subprocess.Popen([sys.executable, "-c", DRIVER, *arguments])


def _parts(out: Path) -> list[Path]:
    return [path for folder in (out / "run").glob("0-*") for path in parts.written(folder)]
