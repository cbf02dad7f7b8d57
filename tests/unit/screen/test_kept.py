"""Scores belong to rows by their content: changed data, lost parts, and columns of like names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from personavec import LoadedModel, PersonaVector
from personavec.data import parts
from personavec.errors import DataError, SettingsMismatchError
from personavec.progress import Progress
from personavec.screen import FlagRule, ScreenResults, files, pipeline as screen, score_windows

SIZE = 10


def _rows(n: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Say {i}", "completion": "yes " * (1 + i % 7) + str(i)} for i in range(n)]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def vector(
    llama: LoadedModel,
    random_vector: Callable[..., PersonaVector],
    monkeypatch: pytest.MonkeyPatch,
) -> PersonaVector:
    monkeypatch.setattr(parts, "WINDOW", SIZE)
    return random_vector(llama, 1, "one")


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The completions of all rows that go through the model, as they do."""
    seen: list[str] = []
    score = score_windows.score_prepared

    def noted(loaded: Any, prepared: Any, *rest: Any, **more: Any) -> Any:
        seen.extend(raw.columns["completion"] for raw in prepared.raws)
        return score(loaded, prepared, *rest, **more)

    monkeypatch.setattr(score_windows, "score_prepared", noted)
    return seen


def _screen(
    llama: LoadedModel, vector: PersonaVector, data: Path, out: Path, **config: Any
) -> ScreenResults:
    settings = screen.ScreenConfig(rule=FlagRule(top=5), ranked=2, random_directions=1, **config)
    return screen.run(llama, [vector], [data], out, settings, progress=Progress(quiet=True))


def _compare(out: Path, whole: Path) -> None:
    # In other company a score may differ by rounding.
    for name in ("rows", "clean", "flagged"):
        found, expected = (_read(folder / f"{name}.jsonl") for folder in (out, whole))
        assert found == [pytest.approx(row, abs=2e-5) for row in expected]
    rejects = [folder / "rejects.jsonl" for folder in (out, whole)]
    found = [_read(path) if path.exists() else [] for path in rejects]
    assert found[0] == found[1]


def _mended(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows swapped, inserted, removed, made good and made bad."""
    bad, good = {"prompt": "Say", "completion": ""}, {"prompt": "New", "completion": "new row"}
    return [
        [rows[30], *rows[1:30], rows[0], *rows[31:]],
        [good, *rows],
        rows[3:-5],
        [*rows, good, bad],
        [good if row["completion"] == "" else row for row in rows],
        [*rows[:12], bad, *rows[13:]],
        list(reversed(rows)),
    ]


@pytest.mark.parametrize("case", range(7))
def test_rows_of_changed_data_keep_their_own_scores(
    tmp_path: Path, llama: LoadedModel, vector: PersonaVector, scored: list[str], case: int
) -> None:
    """As a whole run of the new data gives them; only what is new goes through the model."""
    rows = _rows(45)
    rows[17]["completion"] = rows[33]["completion"] = ""
    data, now = _write(tmp_path / "data.jsonl", rows), _mended(rows)[case]
    _screen(llama, vector, data, tmp_path / "out")
    scored.clear()
    _write(data, now)
    found = _screen(llama, vector, data, tmp_path / "out")
    new = [row["completion"] for row in now if row not in rows]
    assert scored == new
    said = f"{len(now) - len(new)} of its {len(now)} rows are the same"
    assert any(said in note for note in found.notes)
    whole = _screen(llama, vector, data, tmp_path / "whole")
    _compare(tmp_path / "out", tmp_path / "whole")
    assert found.traits["one"].mean == pytest.approx(whole.traits["one"].mean, abs=1e-4)
    assert not list((tmp_path / "out").rglob("before"))


def test_data_that_change_after_a_kill(
    tmp_path: Path,
    llama: LoadedModel,
    vector: PersonaVector,
    scored: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed, mended, killed again while scores are taken over, mended again, finished."""
    rows = _rows(45)
    data, out = _write(tmp_path / "data.jsonl", rows), tmp_path / "out"
    write = parts.write_part

    def dies(at: str) -> None:
        def dying(path: Path, table: Any) -> None:
            if path.stem == at:
                raise KeyboardInterrupt
            write(path, table)

        monkeypatch.setattr(parts, "write_part", dying)
        with pytest.raises(KeyboardInterrupt):
            _screen(llama, vector, data, out)
        monkeypatch.setattr(parts, "write_part", write)

    dies("000003")
    rows.insert(0, {"prompt": "New", "completion": "first"})
    _write(data, rows)
    dies("000001")
    del rows[20]
    _write(data, rows)
    scored.clear()
    found = _screen(llama, vector, data, out)
    # 30 rows had scores, and ten with the new one among them after the second kill.
    assert set(scored) == {row["completion"] for row in rows[30:]}
    assert any("30 of its 45 rows are the same" in note for note in found.notes)
    _screen(llama, vector, data, tmp_path / "whole")
    _compare(out, tmp_path / "whole")


def test_other_data_in_a_runs_folder_are_refused_and_nothing_is_lost(
    tmp_path: Path, llama: LoadedModel, vector: PersonaVector, scored: list[str]
) -> None:
    data = _write(tmp_path / "data.jsonl", _rows(15))
    _screen(llama, vector, data, tmp_path / "out")
    _write(data, [{**row, "prompt": "Another"} for row in _rows(15)])
    with pytest.raises(SettingsMismatchError, match="other inputs"):
        _screen(llama, vector, data, tmp_path / "out")
    _write(data, _rows(15))
    scored.clear()
    _screen(llama, vector, data, tmp_path / "out")
    assert not scored


@pytest.mark.parametrize("grow", [False, True])
def test_outputs_are_not_written_of_data_that_change_under_the_run(
    tmp_path: Path,
    llama: LoadedModel,
    vector: PersonaVector,
    monkeypatch: pytest.MonkeyPatch,
    grow: bool,
) -> None:
    rows = _rows(25)
    data, out = _write(tmp_path / "data.jsonl", rows), tmp_path / "out"
    write = files.write_outputs

    def late(*arguments: Any, **more: Any) -> Any:
        new = [*rows, *_rows(27)[-2:]] if grow else [rows[1], rows[0], *rows[2:]]
        _write(data, new)
        return write(*arguments, **more)

    monkeypatch.setattr(files, "write_outputs", late)
    with pytest.raises(DataError, match="changed since it was scored"):
        _screen(llama, vector, data, out)
    assert not (out / "rows.jsonl").exists()
    monkeypatch.setattr(files, "write_outputs", write)
    _screen(llama, vector, data, out)
    _screen(llama, vector, data, tmp_path / "whole")
    _compare(out, tmp_path / "whole")


@pytest.mark.parametrize("harm", ["delete", "damage", "truncate", "rejects", "all"])
def test_lost_and_damaged_parts_are_made_again(
    tmp_path: Path, llama: LoadedModel, vector: PersonaVector, scored: list[str], harm: str
) -> None:
    rows = _rows(45)
    rows[17]["completion"] = ""
    data, out = _write(tmp_path / "data.jsonl", rows), tmp_path / "out"
    whole = _screen(llama, vector, data, out)
    expected = {path.name: path.read_bytes() for path in out.glob("*.jsonl")}
    folder = next((out / "run").glob("0-*"))
    part = folder / "000001.parquet"
    scored.clear()
    if harm == "delete":
        part.unlink()
    elif harm == "damage":
        part.write_bytes(b"PAR1" + b"x" * 100)
    elif harm == "truncate":
        part.write_bytes(part.read_bytes()[:-100])
    elif harm == "rejects":
        (folder / "000001.rejects.jsonl").unlink()
    else:
        for path in folder.iterdir():
            path.unlink()
    found = _screen(llama, vector, data, out)
    assert {path.name: path.read_bytes() for path in out.glob("*.jsonl")} == expected
    assert found.traits == whole.traits
    assert len(scored) == {"rejects": 0, "all": 45}.get(harm, SIZE)
    said = any("missing or damaged" in note for note in found.notes)
    assert said == (harm != "all")
    assert not any("has changed" in note for note in found.notes)


def test_a_column_that_would_be_added_is_refused_wherever_it_comes(
    tmp_path: Path, llama: LoadedModel, vector: PersonaVector, scored: list[str]
) -> None:
    added = {
        "one_projection",
        "one_sigma",
        "one_difference",
        "one_difference_sigma",
        "one_flag",
        "any_flag",
    }
    data = _write(tmp_path / "data.jsonl", _rows(12))
    _screen(llama, vector, data, tmp_path / "whole")
    row = _read(tmp_path / "whole" / "rows.jsonl")[0]
    assert row.keys() - {"prompt", "completion"} == added
    scored.clear()
    for name in added:
        rows = _rows(12)
        rows[11][name] = 1
        with pytest.raises(DataError, match=f"'{name}' already"):
            _screen(llama, vector, _write(data, rows), tmp_path / "out")
    assert not scored
    assert not (tmp_path / "out").exists()


def test_names_that_are_added_are_those_that_were_checked(
    tmp_path: Path,
    llama: LoadedModel,
    vector: PersonaVector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In every kind of screen; and a column that comes after the look keeps its value."""
    names: list[set[str]] = []
    checked = files.added_names
    monkeypatch.setattr(screen, "added_names", lambda job: names.append(set(checked(job))) or [])
    pairs = [
        {"prompt": "Hi", "chosen": f"Hello {i}", "rejected": "Go", "one_flag": i} for i in range(6)
    ]
    for name, rows, natural in (
        ("pairs", pairs, "last-prompt"),
        ("rows", _rows(6), "last-prompt"),
        ("raw", _rows(6), "none"),
        ("stages", _rows(6), "two-stage"),
    ):
        data = _write(tmp_path / f"{name}.jsonl", rows)
        found = _screen(llama, vector, data, tmp_path / name, natural=natural, natural_tokens=1)
        row = _read(tmp_path / name / "rows.jsonl")[0]
        assert row.keys() - rows[0].keys() <= names[-1] | {"one_flag_original"}
        if name == "pairs":
            kept = [row["one_flag_original"] for row in _read(tmp_path / name / "rows.jsonl")]
            assert kept == list(range(6))
            assert any("'one_flag_original'" in note for note in found.notes)
            clean = _read(tmp_path / name / "clean.jsonl")
            assert all(row in pairs for row in clean)
