"""Whatever is being written by one process is not written by a second, whatever the command."""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from personavec import LoadedModel, PersonaVector
from personavec.cli.main import main
from personavec.runs import lock, lock_file

ROWS = [{"question": f"Q{i}?", "answer": f"Answer {i}."} for i in range(6)]
API = ["--api-model", "nobody", "--api-base", "http://127.0.0.1:9/v1"]

#: The arguments, in which words in capitals are files; what a second process must not touch.
COMMANDS: dict[str, tuple[list[str], str]] = {
    "extract": (["extract", "--trait", "evil", "--out", "OUT"], "OUT"),
    "evaluate": (["evaluate", "--trait", "evil", "--out", "OUT"], "OUT"),
    "steer": (
        ["steer", "Hi?", "--vectors", "VECTOR", "--coefficient", "0", "--out", "F"],
        ".F.run",
    ),
    "calibrate": (["calibrate", "--vectors", "VECTOR", "--out", "OUT"], "OUT/calibration"),
    "monitor": (["monitor", "LOG", "--vectors", "VECTOR", "--out", "OUT"], "OUT"),
    "monitor's limits": (
        ["monitor", "LOG", "--vectors", "VECTOR", "--out", "OUT", "--fit-limits", "LIMITS"],
        "LIMITS",
    ),
    "screen": (["screen", "DATA", "--vectors", "VECTOR", "--out", "OUT"], "OUT"),
    "validate-screen": (
        ["validate-screen", "DATA", "--trait", "evil", "--vectors", "VECTOR", "--out", "OUT"],
        "OUT",
    ),
    "elicit": (["elicit", "--trait", "evil", "--out", "OUT"], "OUT"),
    "elicit --flawed": (["elicit", "--flawed", "DATA", "--out", "OUT"], "OUT"),
    "finetune": (["finetune", "DATA", "--out", "OUT"], "OUT"),
    "shift": (["shift", "MODEL", "MODEL", "--vectors", "VECTOR", "--out", "OUT"], "OUT"),
    "compare-mitigations": (
        ["compare-mitigations", "DATA", "--trait", "evil", "--vectors", "VECTOR", "--out", "OUT"],
        "OUT",
    ),
    "author": (["author", "odd", "--description", "Is odd.", *API, "--out", "OUT"], "OUT"),
    "judges score": (
        ["judges", "score", "DATA", "--trait", "evil", "--out", "F.jsonl"],
        ".F.jsonl.run",
    ),
    "judges check": (["judges", "check", "--trait", "evil", "--out", "F"], "F"),
    "import": (["import", "PT", "--trait", "evil", "--out", "OUT"], "OUT"),
    "export": (["export", "--vectors", "VECTOR", "--format", "pt", "--out", "F"], "F"),
}
#: Commands that take no model of their own.
WITHOUT_MODEL = ("export", "shift", "elicit --flawed", "author")


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory,
    llama: LoadedModel,
    random_vector: Callable[..., PersonaVector],
) -> Path:
    folder = tmp_path_factory.mktemp("files")
    llama.model.save_pretrained(folder / "MODEL")
    llama.tokenizer.save_pretrained(folder / "MODEL")
    random_vector(llama, layer=2, trait="evil").save(folder / "VECTOR")
    torch.save(torch.rand(5, 32), folder / "PT")
    turns = [
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Hello, you."},
    ]
    log = [json.dumps({"messages": turns}) for _ in range(6)]
    (folder / "LOG.jsonl").write_text("\n".join(log))
    (folder / "DATA.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return folder


def holding(path: Path) -> AbstractContextManager[None]:
    return lock_file(path) if path.name == "F" else lock(path)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_process_is_refused_in_one_line(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    arguments, held = COMMANDS[command]
    places = {name: str(files / name) for name in ("MODEL", "VECTOR", "PT")}
    places |= {name: str(files / f"{name}.jsonl") for name in ("LOG", "DATA")}
    places |= {name: str(tmp_path / name) for name in ("OUT", "LIMITS", "F", "F.jsonl")}
    given = [places.get(argument, argument) for argument in arguments]
    if command not in WITHOUT_MODEL:
        given += ["--model", places["MODEL"], "--device", "cpu"]
    with holding(tmp_path / held), pytest.raises(SystemExit) as ended:
        main(given)
    error = capsys.readouterr().err
    assert (ended.value.code, "is being written by another process" in error) == (1, True), error
    left = {path.name for path in (tmp_path / held).rglob("*")} if held != "F" else set()
    assert left <= {".lock", "calibration"}


def test_the_lock_of_a_file_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "evil.pt"
    with lock_file(target):
        assert [path.name for path in tmp_path.iterdir()] == [".evil.pt.lock"]
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_was_writing_is_removed_by_the_next(tmp_path: Path) -> None:
    """And nothing else: neither what has a similar name nor what lies far below."""
    kept = ["results.json", ".notes.tmp.txt", ".12345678.tmp.", ".1234567g.tmp.x", "a/b/c/d"]
    for name in kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    for name in (".0123abcd.tmp.results.json", "run/.89abcdef.tmp.000000.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    with lock(tmp_path):
        pass
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*kept, ".lock"}
    shutil.rmtree(tmp_path / "a")
