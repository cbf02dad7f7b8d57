"""A folder belongs to the settings that it was begun with."""

import json
from pathlib import Path

import pytest

from personavec.errors import DataError, SettingsMismatchError, StorageError, UsageError
from personavec.runs import claim


def test_claim_accepts_the_same_settings_and_names_each_difference(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = {"seed": 0, "layers": (1, 2), "model": {"name": "m", "dtype": "float32"}}
    claim(folder, settings)
    claim(folder, settings)
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 0
    with pytest.raises(SettingsMismatchError) as caught:
        claim(folder, {"layers": [1, 2], "model": {"name": "n", "dtype": "float32"}, "new": None})
    message = str(caught.value)
    assert "seed was 0, now not set" in message
    assert 'model.name was "m", now "n"' in message
    assert "new was not set, now null" in message
    assert "layers" not in message
    assert "dtype" not in message
    assert "--out" in message


def test_another_version_goes_on_with_a_warning_unless_its_files_are_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim(tmp_path, {"seed": 0})
    assert capsys.readouterr().err == ""
    path = tmp_path / "manifest.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "personavec": {**record["personavec"], "version": "0"}}))
    claim(tmp_path, {"seed": 0})
    assert 'begun by personavec "0"' in capsys.readouterr().err
    for earlier, has in (
        ({**record["personavec"], "format": 1}, "format 1; this version continues format 2"),
        (None, "no format number"),
        ("0.1", "no format number"),
    ):
        path.write_text(json.dumps({**record, "personavec": earlier}))
        with pytest.raises(SettingsMismatchError, match=f"another version of personavec.*{has}"):
            claim(tmp_path, {"seed": 0})


def test_claim_refuses_a_folder_that_holds_other_files(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("")
    own = tmp_path / "rows.jsonl"
    own.write_text("{}\n")
    with pytest.raises(UsageError, match=r"holds 'rows\.jsonl' but no manifest\.json"):
        claim(tmp_path, {"seed": 0})
    assert not (tmp_path / "manifest.json").exists()
    claim(tmp_path, {"seed": 0}, beside="rows.jsonl")
    claim(tmp_path, {"seed": 0})
    # Of a run whose manifest is lost nobody knows which settings its files have.
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"rows\.jsonl"):
        claim(tmp_path, {"seed": 1})


def test_claim_under_a_file_or_over_a_broken_manifest_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        claim(tmp_path / "file", {"seed": 0})
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json"):
        claim(tmp_path, {"seed": 0})
