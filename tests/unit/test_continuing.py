"""What one command has begun: no second one writes to it, and none goes on with other inputs."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from personavec import LoadedModel, PersonaVector, load_model, runs
from personavec.cli.main import main
from personavec.finetune.probes import DriftLog, Probes
from personavec.rollouts import Naturals
from personavec.runs import lock, lock_file, read_records, remove_leftovers

ROWS = [{"question": f"Q{i}?", "answer": f"Answer {i}."} for i in range(60)]
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
    "finetune": (["finetune", "DATA", "--watch", "VECTOR", "--out", "OUT"], "OUT"),
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


def called(files: Path, out: Path, command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that fails with code 1, or is killed, says on stderr."""
    arguments, _ = COMMANDS[command]
    places = {name: str(files / name) for name in ("MODEL", "VECTOR", "PT")}
    places |= {name: str(files / f"{name}.jsonl") for name in ("LOG", "DATA")}
    places |= {name: str(out / name) for name in ("OUT", "LIMITS", "F", "F.jsonl")}
    given = [places.get(argument, argument) for argument in arguments]
    if command not in WITHOUT_MODEL:
        given += ["--model", places["MODEL"], "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main(given)
    error = capsys.readouterr().err
    assert ended.value.code in (1, 130), error
    return error


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_process_is_refused_in_one_line(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    held = COMMANDS[command][1]
    with holding(tmp_path / held):
        assert "is being written by another process" in called(files, tmp_path, command, capsys)
    left = {path.name for path in (tmp_path / held).rglob("*")} if held != "F" else set()
    assert left <= {".lock", "calibration"}


def other_weights(files: Path) -> None:
    path = files / "MODEL" / "model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    save_file({**tensors, name: tensors[name] + 1}, path, {"format": "pt"})


def other_layer(files: Path) -> None:
    path = files / "VECTOR" / "vector.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer": 3}))


def other_baseline(files: Path) -> None:
    path = files / "VECTOR" / "vector.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "neutral_prompt_last": tensors["neutral_prompt_last"] * 2}, path)


def other_data(files: Path) -> None:
    for name in ("DATA.jsonl", "LOG.jsonl"):
        path = files / name
        path.write_text(path.read_text().replace("?", "??"))


#: What may change between two calls, what the second one says, and which commands depend on it.
OF_A_VECTOR = (
    *("steer", "calibrate", "monitor", "screen", "validate-screen", "shift", "finetune"),
    "compare-mitigations",
)
CHANGES: dict[Callable[[Path], None], tuple[str, tuple[str, ...]]] = {
    other_weights: (
        "weights was",
        (*OF_A_VECTOR, "extract", "evaluate", "elicit", "judges score", "import"),
    ),
    other_layer: ("layer was 2, now 3", OF_A_VECTOR),
    other_baseline: ("baseline was", OF_A_VECTOR),
    other_data: (
        "hash was",
        ("monitor", "validate-screen", "finetune", "compare-mitigations", "elicit --flawed"),
    ),
}
CASES = [(change, command) for change, (_, commands) in CHANGES.items() for command in commands]


@pytest.mark.parametrize(
    ("change", "command"), CASES, ids=[f"{command}, {c.__name__}" for c, command in CASES]
)
def test_a_killed_run_goes_on_with_nothing_else(
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    command: str,
) -> None:
    """Killed as soon as its folder has a manifest, as any later kill leaves it too."""
    write = runs.atomic_write

    def killed(path: Path, data: bytes | str) -> None:
        write(path, data)
        if path.name == runs.MANIFEST:
            raise KeyboardInterrupt

    shutil.copytree(files, own := tmp_path / "files")
    with monkeypatch.context() as patch:
        patch.setattr("personavec.runs.manifest.atomic_write", killed)
        called(own, tmp_path, command, capsys)
    change(own)
    error = called(own, tmp_path, command, capsys)
    assert CHANGES[change][0] in error
    assert "holds a run with other settings" in error


def test_a_kill_while_the_drift_log_is_rewritten_loses_none_of_it(
    llama: LoadedModel,
    random_vector: Callable[..., PersonaVector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def log() -> DriftLog:
        probes = Probes(llama, [random_vector(llama)], n=2)
        return DriftLog(probes, tmp_path / "drift.jsonl", every=1)

    first = log()
    first.begin(llama.model, 0)
    for step in (1, 2, 3):
        first.read(llama.model, step, 1.0)
    before = read_records(tmp_path / "drift.jsonl")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for call in ("replace", "fsync", "unlink"):
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(os, call, killed)
            log().begin(llama.model, 2)
        assert read_records(tmp_path / "drift.jsonl")[:3] == before[:3]
    log().begin(llama.model, 2)
    assert read_records(tmp_path / "drift.jsonl") == before[:3]


def test_natural_responses_are_those_of_the_weights_not_of_the_name(
    files: Path, tmp_path: Path
) -> None:
    shutil.copytree(files, own := tmp_path / "files")
    name = str(own / "MODEL")
    prompts = [(1, 2, 3)]
    before = Naturals(load_model(name, device="cpu"), tmp_path / "kept", max_tokens=4)
    assert before.means(prompts, [1]).keys()
    assert Naturals(load_model(name, device="cpu"), tmp_path / "kept", max_tokens=4).kept == 1
    other_weights(own)
    after = Naturals(load_model(name, device="cpu"), tmp_path / "kept", max_tokens=4)
    assert (after.kept, after.folder == before.folder) == (0, False)


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
    remove_leftovers(tmp_path, older_than=3600)
    assert (tmp_path / ".0123abcd.tmp.results.json").exists()
    with lock(tmp_path):
        pass
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*kept, ".lock"}
    (tmp_path / ".0123abcd.tmp.evil.pt").write_text("half")
    with lock_file(tmp_path / "evil.pt"):
        assert not (tmp_path / ".0123abcd.tmp.evil.pt").exists()
    shutil.rmtree(tmp_path / "a")
