"""The verb, on a tiny model: what it writes, what it refuses, and that a kill loses nothing."""

import csv
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from personavec import LoadedModel, PersonaVector
from personavec.cli.main import main
from personavec.data import ColumnMap, parts
from personavec.errors import DataError, SettingsMismatchError, StorageError, UsageError
from personavec.judges import ContrastJudge
from personavec.progress import Progress
from personavec.results import dump, read
from personavec.runs import lock
from personavec.screen import Cut, FlagRule, pipeline as screen, report
from personavec.screen.results import (
    LengthControl,
    MatchedMean,
    RandomControl,
    ScreenResults,
    summarised,
)
from personavec.traits import load_trait

QUIET = Progress(quiet=True)
ONE, TWO = "one", "two"


def _texts(n: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    words = ["sun", "rain", "yes", "no", "why not", "bread", "a long walk"]
    return [
        {
            "id": f"row-{seed}-{i}",
            "source": ("left", "right")[i % 2],
            "prompt": f"Say {' '.join(rng.choice(words, 2))}",
            "completion": " ".join(rng.choice(words, int(rng.integers(1, 12)))),
            "extra": {"kept": [i, None]},
        }
        for i in range(n)
    ]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def vectors(llama: LoadedModel, random_vector: Callable[..., PersonaVector]) -> list[PersonaVector]:
    return [random_vector(llama, 1, ONE), random_vector(llama, 3, TWO)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return _write(tmp_path / "data.jsonl", _texts(60, 0))


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return _write(tmp_path / "clean.jsonl", _texts(40, 1))


def _screen(
    llama: LoadedModel,
    vectors: list[PersonaVector],
    data: Path | list[Path],
    out: Path,
    **settings: Any,
) -> ScreenResults:
    apart = {
        k: settings.pop(k) for k in ("reference", "naturals", "judge", "specs") if k in settings
    }
    sources = data if isinstance(data, list) else [data]
    config = screen.ScreenConfig(**settings)
    return screen.run(llama, vectors, sources, out, config, progress=QUIET, **apart)


def test_rows_keep_their_order_identity_and_columns(
    tmp_path: Path, llama: LoadedModel, vectors: list[PersonaVector], data: Path, clean: Path
) -> None:
    results = _screen(llama, vectors, data, tmp_path / "out", reference=clean, by=("source",))
    original, rows = _read(data), _read(tmp_path / "out" / "rows.jsonl")
    added = [f"{t}_{c}" for t in (ONE, TWO) for c in ("projection", "difference", "flag")]
    assert [{k: row[k] for k in original[0]} for row in rows] == original
    assert set(added) <= rows[0].keys()
    flagged = [row for row in rows if row["any_flag"]]
    assert _read(tmp_path / "out" / "flagged.jsonl") == flagged
    assert 0 < len(flagged) < len(rows)
    keep = {row["id"] for row in rows} - {row["id"] for row in flagged}
    assert _read(tmp_path / "out" / "clean.jsonl") == [r for r in original if r["id"] in keep]
    for trait in (ONE, TWO):
        record = results.traits[trait]
        differences = np.array([row[f"{trait}_difference"] for row in rows])
        assert record.mean == pytest.approx(differences.mean(), abs=1e-4)
        assert record.low is not None
        assert record.mean is not None
        assert record.high is not None
        assert record.low < record.mean < record.high
        flags = [row[f"{trait}_flag"] for row in rows]
        assert flags == (differences > record.threshold).tolist()
        assert record.flagged == sum(flags)
        for group in record.groups["source"]:
            own = [r[f"{trait}_difference"] for r in rows if r["source"] == group.group]
            others = [r[f"{trait}_difference"] for r in rows if r["source"] != group.group]
            assert group.mean == pytest.approx(np.mean(own), abs=1e-4)
            assert group.mean_without == pytest.approx(np.mean(others), abs=1e-4)
        top = record.ranked.high[0]
        assert top.id == rows[int(differences.argmax())]["id"]
        assert top.messages[-1]["content"] == rows[int(differences.argmax())]["completion"]
        assert isinstance(record.controls.random, RandomControl)
        assert len(record.controls.random.directions) == 5
        assert isinstance(record.controls.length, LengthControl)
        matched = record.controls.length.matched
        assert isinstance(matched, MatchedMean)
        assert matched.n + matched.without_match == len(rows)
    promised = {"rows", "rejected", "natural", "traits", "out", "tokens_per_second"}
    assert promised <= summarised(results).keys()
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == dump(results)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_other_formats_give_the_same_scores(
    tmp_path: Path, llama: LoadedModel, vectors: list[PersonaVector], data: Path, suffix: str
) -> None:
    rows = [{k: row[k] for k in ("id", "prompt", "completion")} for row in _read(data)]
    rows[3]["completion"] = "None"
    plain, other = tmp_path / "plain.jsonl", tmp_path / f"other.{suffix}"
    _write(plain, rows)
    if suffix == "csv":
        with other.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), other)
    _screen(llama, vectors, plain, tmp_path / "a")
    _screen(llama, vectors, other, tmp_path / "b")
    expected = _read(tmp_path / "a" / "rows.jsonl")
    if suffix == "csv":
        assert _read(tmp_path / "b" / "rows.jsonl") == expected
        return
    found = pq.read_table(tmp_path / "b" / "rows.parquet")
    assert found.schema.field("one_flag").type == pa.bool_()
    assert [row["completion"] for row in found.to_pylist()] == [r["completion"] for r in expected]
    np.testing.assert_allclose(
        found.column("one_projection").to_numpy(),
        [r["one_projection"] for r in expected],
        atol=1e-4,
    )


def test_parquet_from_rows_of_mixed_schemas(
    tmp_path: Path, llama: LoadedModel, vectors: list[PersonaVector]
) -> None:
    rows = _texts(6, 0)
    rows[1]["extra"], rows[2]["note"], rows[3]["id"] = "text", 5, 7
    rows[4] = {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    }
    results = _screen(
        llama, vectors, _write(tmp_path / "d.jsonl", rows), tmp_path / "out", format="parquet"
    )
    assert results.rows == 6
    found = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    assert [json.loads(r["extra"]) if r["extra"] else None for r in found][:2] == [
        {"kept": [0, None]},
        "text",
    ]
    assert [row["note"] for row in found] == [None, None, 5, None, None, None]
    assert found[4]["messages"] == rows[4]["messages"]
    assert found[4]["prompt"] is None


def test_bad_rows_are_kept_aside_and_the_run_goes_on(
    tmp_path: Path, llama: LoadedModel, vectors: list[PersonaVector]
) -> None:
    good = [json.dumps(row).encode() for row in _texts(4, 0)]
    lines = [good[0], b"{bad", good[1], b'{"x": "\xff"}', b'{"prompt": "a", "completion": ""}']
    lines += [b'{"prompt": "a", "completion": "%s"}' % (b"x" * (llama.context + 1)), *good[2:]]
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n".join(lines))
    results = _screen(llama, vectors, path, tmp_path / "out")
    assert (results.rows, results.rejected) == (4, 4)
    rejects = _read(tmp_path / "out" / "rejects.jsonl")
    assert [(r["index"], r["number"]) for r in rejects] == [(1, 2), (3, 4), (4, 5), (5, 6)]
    for reject, reason in zip(rejects, ("not JSON", "UTF-8", "empty", "context"), strict=True):
        assert reason in reject["reason"]
    assert rejects[0]["text"] == "{bad"
    assert rejects[2]["row"] == {"prompt": "a", "completion": ""}
    kept = [r["id"] for r in _read(tmp_path / "out" / "rows.jsonl")]
    assert kept == [row["id"] for row in _texts(4, 0)]
    with pytest.raises(DataError, match="more than --max-rejects 3"):
        _screen(llama, vectors, path, tmp_path / "other", max_rejects=3)
    assert len(_read(tmp_path / "other" / "rejects.jsonl")) == 4


class _Killed(BaseException):
    """Stands for a kill: nothing in the package catches it."""


@pytest.mark.parametrize("after", ["rejects", "part"])
def test_a_run_that_dies_continues_with_each_row_once(
    tmp_path: Path,
    llama: LoadedModel,
    vectors: list[PersonaVector],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: str,
) -> None:
    """Dies in the third window, before or after its part is written; windows of ten rows."""
    rows = _texts(45, 0)
    for place in (5, 25, 26, 44):
        rows[place]["completion"] = ""
    for place in (1, 11, 12, 40):
        rows[place]["completion"] = "<think>Hm.</think>" + rows[place]["completion"]
    for place in (2, 5, 22, 41):
        rows[place]["hint"] = "Say it as if you meant it."
    _write(data, rows)
    monkeypatch.setattr(parts, "WINDOW", 10)
    expected = _screen(llama, vectors, data, tmp_path / "whole")

    write, written = parts.write_part, []

    def die(path: Path, table: pa.Table) -> None:
        if path.stem == "000002" and after == "rejects":
            raise _Killed
        write(path, table)
        if path.stem == "000002":
            raise _Killed

    monkeypatch.setattr(parts, "write_part", die)
    with pytest.raises(_Killed):
        _screen(llama, vectors, data, tmp_path / "out")
    assert len(_read(tmp_path / "out" / "rejects.jsonl")) == 3

    def note(path: Path, table: pa.Table) -> None:
        written.append(path.stem)
        write(path, table)

    monkeypatch.setattr(parts, "write_part", note)
    found = _screen(llama, vectors, data, tmp_path / "out")
    assert written == ["000002", "000003", "000004"][after == "part" :]
    for name in ("rows.jsonl", "rejects.jsonl"):
        whole, resumed = (tmp_path / folder / name for folder in ("whole", "out"))
        assert resumed.read_bytes() == whole.read_bytes()
    assert found.traits == expected.traits
    # What is told is counted over both runs.
    assert found.data == expected.data
    told = found.data["data"]
    assert list(told.readers.values()) == [41]
    assert told.ignored_columns["hint"] == 3
    assert told.notes == {"a thought was left out of the answer": 4}
    assert sum(told.rejected.values()) == 4
    assert "hint (3)" in (tmp_path / "out" / "report.html").read_text("utf-8")


@pytest.mark.parametrize("name", ["000002.parquet", "rows.jsonl", "results.json"])
def test_a_full_disk_loses_no_row_and_the_same_command_goes_on(
    tmp_path: Path,
    llama: LoadedModel,
    vectors: list[PersonaVector],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Full when a part, an output or the results are to reach the disk; windows of ten rows."""
    monkeypatch.setattr(parts, "WINDOW", 10)
    expected = _screen(llama, vectors, data, tmp_path / "whole")
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(StorageError, match=f"disk full while writing .*{name}; free space"):
            _screen(llama, vectors, data, out)
    assert not list(out.rglob(f"*{name}"))
    assert _screen(llama, vectors, data, out).traits == expected.traits
    assert _read(out / "rows.jsonl") == _read(tmp_path / "whole" / "rows.jsonl")


@pytest.fixture
def folders(tmp_path: Path, llama: LoadedModel, vectors: list[PersonaVector]) -> dict[str, str]:
    """Options that name a tiny model and a vector of it, by their folders."""
    model = tmp_path / "model"
    llama.model.save_pretrained(model)
    llama.tokenizer.save_pretrained(model)
    vectors[0].save(tmp_path / "vector")
    return {"--model": str(model), "--dtype": "float32", "--vectors": str(tmp_path / "vector")}


def test_a_percentile_of_the_reference_set_is_the_one_that_was_asked_for(
    tmp_path: Path, data: Path, clean: Path, folders: dict[str, str]
) -> None:
    """0 is the lowest value of the set, not the default; another rule beside it is refused."""
    arguments = [f"{name}={value}" for name, value in folders.items()]
    arguments += [f"--reference={clean}", "--percentile=0"]
    with pytest.raises(SystemExit) as ended:
        main(["screen", str(data), *arguments, f"--out={tmp_path / 'out'}"])
    assert ended.value.code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["rule"]["percentile"] == 0
    assert results["traits"][ONE]["flagged"] > results["rows"] / 2
    with pytest.raises(SystemExit) as ended:
        main(["screen", str(data), *arguments, "--top=5", f"--out={tmp_path / 'other'}"])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({}, 0, ""),
        ({"--max-rejects": "1"}, 0, ""),
        ({"--max-rejects": "0"}, 1, "1 row of data cannot be used, more than --max-rejects 0"),
        ({"--vectors": "evil"}, 1, "30 layers of width 576 (smollm2); the model has 4 of width 32"),
        ({"--cut": "evil>1"}, 2, "the traits are one"),
        ({"--percentile": "90"}, 2, "--percentile is of a --reference set"),
        ({"--judge": "people"}, 2, "--judge people: use contrast"),
        ({"--model-arg": "auto"}, 2, "--model-arg auto: give KEY=VALUE"),
        ({"--columns": "colour=a"}, 2, "error: --columns colour=a: write NAME=COLUMN"),
    ],
)
def test_the_exit_code_says_what_became_of_a_screen(
    tmp_path: Path,
    data: Path,
    folders: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    code: int,
    said: str,
) -> None:
    data.write_text("{bad\n" + data.read_text())
    options = folders | {"--out": str(tmp_path / "out")} | change
    arguments = [f"{name}={value}" for name, value in options.items()]
    with pytest.raises(SystemExit) as ended:
        main(["screen", str(data), *arguments, "--json"])
    captured = capsys.readouterr()
    assert ended.value.code == code
    if code == 0:
        assert json.loads(captured.out)["rejected"] == 1
    else:
        assert captured.out == ""
        errors = [line for line in captured.err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1
        assert said in errors[0]


def test_other_settings_inputs_and_a_busy_folder_are_refused(
    tmp_path: Path, llama: LoadedModel, vectors: list[PersonaVector], data: Path
) -> None:
    out = tmp_path / "out"
    _screen(llama, vectors, data, out)
    with pytest.raises(SettingsMismatchError, match=r"config\.turns"):
        _screen(llama, vectors, data, out, turns="last")
    with pytest.raises(SettingsMismatchError, match="vectors"):
        _screen(llama, vectors[:1], data, out)
    _write(data, _texts(60, 2))
    with pytest.raises(SettingsMismatchError, match="inputs"):
        _screen(llama, vectors, data, out)
    with lock(tmp_path / "busy"), pytest.raises(StorageError, match="another process"):
        _screen(llama, vectors, data, tmp_path / "busy")


def test_several_datasets_are_compared_and_written_apart(
    tmp_path: Path, llama: LoadedModel, vectors: list[PersonaVector], data: Path, clean: Path
) -> None:
    results = _screen(llama, vectors, [data, clean], tmp_path / "out", rule=FlagRule(top=5))
    assert [d.rows for d in results.datasets] == [60, 40]
    groups = {g.group: g for g in results.traits[ONE].groups["dataset"]}
    assert set(groups) == {"data", "clean"}
    written = {n: _read(tmp_path / "out" / n / "rows.jsonl") for n in ("data", "clean")}
    assert [row["id"] for row in written["clean"]] == [row["id"] for row in _read(clean)]
    flags = [row["one_flag"] for rows in written.values() for row in rows]
    assert sum(flags) == 5
    assert groups["data"].flagged == sum(row["one_flag"] for row in written["data"])


def test_preference_pairs_are_dropped_or_swapped(
    tmp_path: Path, llama: LoadedModel, vectors: list[PersonaVector]
) -> None:
    rows = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
        for row, other in zip(_texts(20, 0), _texts(20, 5), strict=True)
    ]
    path = _write(tmp_path / "pairs.jsonl", rows)
    rule = FlagRule(cuts=(Cut.parse("one>0.05projection"),))
    results = _screen(llama, vectors, path, tmp_path / "drop", rule=rule)
    assert (results.kind, results.natural) == ("pair", "rejected")
    scored = _read(tmp_path / "drop" / "rows.jsonl")
    for row in scored:
        difference = row["one_projection"] - row["one_rejected_projection"]
        assert row["one_difference"] == pytest.approx(difference, abs=1e-4)
        assert row["one_flag"] == (row["one_difference"] > 0.05)
        assert row["two_flag"] is None
    flags = [row["one_flag"] for row in scored]
    assert 0 < sum(flags) < 20
    kept = [row for row, flag in zip(rows, flags, strict=True) if not flag]
    assert _read(tmp_path / "drop" / "clean.jsonl") == kept
    _screen(llama, vectors, path, tmp_path / "swap", rule=rule, remedy="swap")
    swapped = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if flag else row
        for row, flag in zip(rows, flags, strict=True)
    ]
    assert _read(tmp_path / "swap" / "clean.jsonl") == swapped


def test_two_stages_score_exactly_what_was_chosen(
    tmp_path: Path, llama: LoadedModel, vectors: list[PersonaVector], data: Path, clean: Path
) -> None:
    both = {"natural_tokens": 6, "naturals": tmp_path / "naturals", "reference": clean}
    _screen(llama, vectors, data, tmp_path / "exact", natural="generate", **both)
    found = _screen(
        llama,
        vectors,
        data,
        tmp_path / "out",
        natural="two-stage",
        top_share=0.1,
        sample=20,
        **both,
    )
    exact = _read(tmp_path / "exact" / "rows.jsonl")
    rows = _read(tmp_path / "out" / "rows.jsonl")
    chosen = [i for i, row in enumerate(rows) if row["one_exact_difference"] is not None]
    record = found.traits[ONE]
    stage = record.two_stage
    assert stage is not None
    assert len(chosen) == stage.top + stage.sample
    assert 6 <= stage.top <= 12
    assert stage.sample == 20
    for i in chosen:
        assert rows[i]["one_exact_difference"] == pytest.approx(
            exact[i]["one_difference"], abs=1e-4
        )
        assert rows[i]["one_flag"] == exact[i]["one_flag"]
    assert not any(row["one_flag"] for i, row in enumerate(rows) if i not in chosen)
    assert record.low is not None
    assert record.mean is not None
    assert record.high is not None
    assert record.low <= record.mean <= record.high
    highest = np.argsort([-row["one_difference"] for row in rows])[:6]
    assert set(highest.tolist()) <= set(chosen)


def test_subsets_explanations_and_the_judge(
    tmp_path: Path, llama: LoadedModel, random_vector: Callable[..., PersonaVector], data: Path
) -> None:
    spec, _ = load_trait("optimistic")
    vectors = [random_vector(llama, 2, "optimistic")]
    rows = _write(data, _texts(24, 0))
    results = _screen(
        llama,
        vectors,
        rows,
        tmp_path / "out",
        rule=FlagRule(top=3),
        subsets=4,
        explain=True,
        judge=ContrastJudge(llama),
        specs=[spec],
    )
    scored = _read(tmp_path / "out" / "rows.jsonl")
    order = np.argsort([row["optimistic_difference"] for row in scored])
    high = _read(tmp_path / "out" / "subsets" / "optimistic" / "high.jsonl")
    ids = {scored[i]["id"] for i in order[-4:]}
    assert {row["id"] for row in high} == ids
    assert set(high[0]) == set(_texts(1, 0)[0])
    values = np.array([[r["optimistic_difference"], r["optimistic_log_odds"]] for r in scored])
    standard = (values - values.mean(0)) / values.std(0, ddof=1)
    combined = [row["optimistic_combined"] for row in scored]
    np.testing.assert_allclose(combined, standard.mean(1), atol=1e-3)
    flagged = {row["id"] for row in scored if row["optimistic_flag"]}
    assert flagged == {scored[i]["id"] for i in np.argsort(combined)[-3:]}
    explained = {row["id"]: row for row in _read(tmp_path / "out" / "explained.jsonl")}
    assert flagged <= explained.keys()
    for record in results.traits["optimistic"].ranked.high:
        assert record.pieces is not None
        text = "".join(piece.text for piece in record.pieces)
        assert text == record.messages[-1]["content"]
        spans = [piece for piece in record.pieces if piece.span]
        assert max(p.projection for p in record.pieces) in [p.projection for p in spans]


def test_the_report_stands_without_lines_intervals_or_texts_that_break_it(
    tmp_path: Path, llama: LoadedModel, vectors: list[PersonaVector]
) -> None:
    rows = [
        {"prompt": "<script>alert(1)</script>", "completion": "</script><b>" + "x" * n}
        for n in (1, 2)
    ]
    _screen(llama, vectors, _write(tmp_path / "d.jsonl", rows), tmp_path / "out", natural="none")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    for said in ("No row is flagged", "interval: not measured", "subliminal", "not measured"):
        assert said in page
    assert _read(tmp_path / "out" / "rows.jsonl")[0]["one_difference"] is None
    results = read(ScreenResults, tmp_path / "out" / "results.json")
    report.write_screening_report(results, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page


def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, llama: LoadedModel, vectors: list[PersonaVector], data: Path
) -> None:
    with pytest.raises(UsageError, match="the traits are one, two"):
        _screen(llama, vectors, data, tmp_path / "a", rule=FlagRule(cuts=(Cut.parse("evil>1"),)))
    with pytest.raises(UsageError, match="labels to swap"):
        _screen(llama, vectors, data, tmp_path / "b", remedy="swap")
    with pytest.raises(UsageError, match="same trait"):
        _screen(llama, [vectors[0], vectors[0]], data, tmp_path / "c")
    with pytest.raises(UsageError, match="--columns prompt=q: none of the first rows"):
        _screen(llama, vectors, data, tmp_path / "d", columns=ColumnMap(prompt="q", response="a"))
    taken = _write(tmp_path / "t.jsonl", [{**row, "one_flag": 1} for row in _texts(3, 0)])
    with pytest.raises(DataError, match="'one_flag' already"):
        _screen(llama, vectors, taken, tmp_path / "e")
    with pytest.raises(
        UsageError, match=r"--by sauce: no row has such a column; there are .*source"
    ):
        _screen(llama, vectors, data, tmp_path / "e", by=("source", "sauce"))
    assert not (tmp_path / "e").exists()
