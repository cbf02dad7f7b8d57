"""A cluster's workers do what one process does, each with the driver's model once more."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_models

pytest.importorskip("ray", reason="needs the extra 'ray'")

from cluster_runs import in_this_process, write_rows

from personavec import LoadedModel, load_model
from personavec.data import RawRow, parts, stretches
from personavec.errors import ModelError, UsageError
from personavec.judges import ContrastJudge, LocalRubricJudge
from personavec.rollouts import Naturals
from personavec.screen import Plan, prepare, probe, score_rows
from personavec.screen.cluster.workers import Generator, Scorer, WorkerSetup, worker_setup
from personavec.screen.kept import settle
from personavec.traits import load_trait

SIZE = 4


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """The tiny Llama, loaded from a folder as every worker loads it."""
    folder = tmp_path_factory.mktemp("model")
    tiny_models.save(tiny_models.build("llama"), folder)
    return load_model(str(folder), dtype="float32")


@pytest.fixture(scope="module")
def work(loaded: LoadedModel) -> WorkerSetup:
    vector = tiny_models.random_vector(loaded, layer=2)
    return worker_setup(loaded, probe([vector], loaded, random=1), Plan())


def scored(work: WorkerSetup, source: Path, folder: Path, done: Sequence[int] = ()) -> list[Any]:
    """The reports of a scorer on all windows that are not done."""
    folder.mkdir(exist_ok=True)
    todo, _ = stretches(source, split=None, size=SIZE, done=done)
    return list(in_this_process(todo, Scorer, (work, folder, "data")))


def projections(folder: Path) -> np.ndarray:
    tables = [pq.read_table(path) for path in parts.written(folder)]
    return np.concatenate([parts.matrix(table, "projection") for table in tables])


def test_a_scorer_writes_what_one_process_scores(
    loaded: LoadedModel, work: WorkerSetup, tmp_path: Path
) -> None:
    """A window has its part and its rejects, and the report counts both."""
    source = tmp_path / "data.jsonl"
    write_rows(source, 2 * SIZE)
    source.write_text(source.read_text() + '{"prompt": "cut off\n')
    rows = write_rows(tmp_path / "good.jsonl", 2 * SIZE)
    found = scored(work, source, tmp_path / "parts")
    assert [(report["rows"], report["rejects"]) for report in found] == [(4, 0), (4, 0), (1, 1)]
    expected = score_rows(loaded, rows, work.probe, work.plan)
    assert sum(report["tokens"] for report in found) == int(expected.sequence_tokens.sum())
    values = projections(tmp_path / "parts")
    np.testing.assert_allclose(values[: 2 * SIZE], expected.projection, atol=1e-5)
    assert np.isnan(values[2 * SIZE :]).all()
    [path] = (tmp_path / "parts").glob("*.rejects.jsonl")
    assert "not JSON" in path.read_text()


def test_rows_that_kept_their_scores_go_through_no_model(work: WorkerSetup, tmp_path: Path) -> None:
    source, folder = tmp_path / "data.jsonl", tmp_path / "parts"
    rows = write_rows(source, 2 * SIZE)
    scored(work, source, folder)
    before = projections(folder)
    lines = source.read_text().splitlines(keepends=True)
    new = '{"id": "new", "prompt": "Say so.", "completion": "north ember"}\n'
    source.write_text("".join([new, *lines]))
    settled = settle(folder, ["other", *(row.hash for row in rows)], "data")
    found = scored(work, source, folder, sorted(settled.done))
    assert [report["tokens"] > 0 for report in found] == [True, False, False]
    np.testing.assert_array_equal(projections(folder)[1:], before)


def test_a_generator_keeps_the_natural_responses_of_chosen_rows(
    loaded: LoadedModel, work: WorkerSetup, tmp_path: Path
) -> None:
    source, folder = tmp_path / "data.jsonl", tmp_path / "naturals"
    rows = write_rows(source, 2 * SIZE)
    work = replace(work, natural_folder=folder, natural_tokens=3)
    todo, _ = stretches(source, split=None, size=SIZE)
    reports = in_this_process(todo, Generator, (work, frozenset({1, 6})))
    assert [report["rows"] for report in reports] == [1, 1]
    naturals = Naturals(loaded, folder, max_tokens=3)
    kept = [naturals.response(prompt_of(loaded, row)) is not None for row in rows]
    # Rows 1 and 5, and 2 and 6, have one prompt each.
    assert kept == [i % 4 in (1, 2) for i in range(len(rows))]


def prompt_of(loaded: LoadedModel, row: RawRow) -> tuple[int, ...]:
    [text] = prepare(loaded, [row], Plan()).encoded[0].texts
    return tuple(text.ids[: text.turns[0].start].tolist())


def test_a_worker_with_another_model_is_refused(work: WorkerSetup) -> None:
    assert work.load().identity == work.identity
    other = replace(work, identity=replace(work.identity, hidden_size=31))
    with pytest.raises(ModelError, match="is not the driver's"):
        other.load()


def test_what_workers_cannot_make_again_by_name_is_refused(
    loaded: LoadedModel, work: WorkerSetup
) -> None:
    specs = [load_trait("evil")[0]]
    judged = worker_setup(loaded, work.probe, work.plan, judge=ContrastJudge(loaded), specs=specs)
    assert (judged.judged, work.judged) == (tuple(specs), ())
    assert Path(work.model).is_absolute()
    judge = LocalRubricJudge(loaded)
    with pytest.raises(UsageError, match="only the contrast judge"):
        worker_setup(loaded, work.probe, work.plan, judge=judge, specs=specs)
    arguments = {"attn_implementation": "eager"}
    odd = replace(loaded, identity=replace(loaded.identity, arguments=arguments))
    with pytest.raises(UsageError, match="without arguments"):
        worker_setup(odd, work.probe, work.plan)
