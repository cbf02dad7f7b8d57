"""Every option of every command, with arguments that nobody can mean: one line, before any work.

What loads a model ends these tests: whoever gets so far was taken for something that can be meant.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jaxtyping import TypeCheckError
from list_options import spellings

import personavec
from personavec.cli.main import main
from personavec.errors import ModelError
from personavec.model import check_tuned, loading


class Reached(Exception):
    """A model was to be loaded."""


#: What makes each command run.
COMMANDS: dict[str, list[str]] = {
    "extract": ["--trait", "evil"],
    "author": ["odd", "--description", "Odd.", "--api-model", "m"],
    "steer": ["Hi?", "--vectors", "evil", "--coefficient", "1"],
    "evaluate": ["--trait", "evil", "--vectors", "evil", "--coefficient", "1"],
    "calibrate": ["--vectors", "evil", "--out", "calibration"],
    "monitor": ["rows.jsonl", "--vectors", "evil"],
    "screen": ["rows.jsonl", "--vectors", "evil"],
    "serve": ["--vectors", "evil"],
    "validate-screen": ["rows.jsonl", "--vectors", "evil"],
    "elicit": ["--trait", "evil"],
    "shift": ["smollm2", "smollm2", "--vectors", "evil"],
    "finetune": ["rows.jsonl", "--vectors", "evil", "--mitigation=preventative", "--coefficient=1"],
    "compare-mitigations": ["rows.jsonl", "--trait", "evil"],
    "replicate": [],
    "export": ["--vectors", "evil", "--format", "pt", "--out", "evil.pt"],
    "import": ["evil.pt", "--trait", "evil", "--out", "imported"],
    "traits list": [],
    "traits show": ["evil"],
    "traits check": ["evil"],
    "judges score": ["answers.jsonl", "--trait", "evil", "--out", "scores.jsonl"],
    "judges check": ["--trait", "evil"],
    "judges compare": ["answers.jsonl", "--columns", "a,b"],
    "models list": [],
    "models show": [],
    "doctor": [],
}  # fmt: skip


DERIVED = spellings()
Call = Callable[..., tuple[Any, str]]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run a command in a folder with data: its exit code, or "reached", and its error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def reached(*_: Any, **__: Any) -> None:
        raise Reached

    monkeypatch.setattr(loading, "load_model", reached)
    rows = [{"prompt": f"Q{i}?", "completion": f"This is answer {i}."} for i in range(40)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"question": "Q?", "answer": f"A {i}.", "a": i, "b": i} for i in range(40)]
    Path("answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*arguments: str) -> tuple[Any, str]:
        code: Any = "reached"
        try:
            main(list(arguments))
        except Reached:
            pass
        except TypeCheckError:  # of the tests, ahead of the package's own check
            code = "reached"
        except SystemExit as ended:
            code = ended.code or 0
        captured = capsys.readouterr()
        if code not in ("reached", 0):
            assert captured.out == ""
        return code, captured.err

    return run


def test_every_command_is_here() -> None:
    assert set(DERIVED) == set(COMMANDS)


#: Values that an option may refuse, and may not break at.
ABSURD = ["", "-1", "nan", "nan,1", str(10**30), "/proc/nope", "é\u202e\udcff"]


def absurd(name: str) -> list[tuple[str, str]]:
    """Each option of a command that takes a value, with each absurd value."""
    taking = [o["spellings"][0] for o in DERIVED[name] if o["spellings"] and o["takes_value"]]
    return [(option, value) for option in taking for value in ABSURD]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_breaks_a_command(call: Call, name: str) -> None:
    """A run up to the model, an exit with 0, or one line and exit code 1 or 2."""
    for option, value in absurd(name):
        given = list(COMMANDS[name])
        if option in given:
            del given[given.index(option) : given.index(option) + 2]
        code, error = call(*name.split(), *given, f"{option}={value}")
        assert code in ("reached", 0, 1, 2), (option, value)
        lines = [line for line in error.splitlines() if line.startswith("error: ")]
        assert code in ("reached", 0) or len(lines) == 1, error
        assert "Traceback" not in error


WRITING = [
    *("extract", "author", "steer", "evaluate", "calibrate", "monitor", "screen", "elicit"),
    *("validate-screen", "shift", "finetune", "compare-mitigations", "export", "import"),
    *("judges score", "judges check"),
]


@pytest.mark.parametrize("name", WRITING)
def test_an_output_that_cannot_be_written_is_told_before_any_work(call: Call, name: str) -> None:
    given = COMMANDS[name]
    if "--out" in given:
        given = given[: given.index("--out")] + given[given.index("--out") + 2 :]
    for out in ("/proc/nope", "rows.jsonl/nope", "x" * 300):
        code, error = call(*name.split(), *given, "--out", out)
        assert code == 1
        assert error.startswith(f"error: --out {out} cannot be written")
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "out", "message"),
    [
        ("screen", "rows.jsonl", "is a file; name a folder"),
        ("extract", "rows.jsonl", "is a file; name a folder"),
        ("judges score", ".", "is a folder; name a file"),
        ("judges check", ".", "is a folder; name a file"),
        ("steer", ".", "is a folder; name a file"),
        ("export", ".", "is a folder; name a file"),
    ],
)
def test_a_file_is_no_folder_and_a_folder_is_no_file(
    call: Call, name: str, out: str, message: str
) -> None:
    code, error = call(*name.split(), *COMMANDS[name], f"--out={out}")
    assert (code, error) == (1, f"error: --out {out} {message}\n")


LAYERED = ["steer", "evaluate", "screen", "shift", "finetune", "compare-mitigations", "export"]


@pytest.mark.parametrize("layer", ["99", "0", "-3", str(10**15)])
@pytest.mark.parametrize("name", LAYERED)
def test_a_layer_that_is_none_is_told_in_one_way(call: Call, name: str, layer: str) -> None:
    code, error = call(name, *COMMANDS[name], f"--layer={layer}")
    assert (code, error) == (2, f"error: --layer {layer}: the evil vector has layers 1 to 30\n")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("extract", ["--layers=1.5"], "--layers 1.5: give whole numbers"),
        ("evaluate", ["--cap=inf"], "--cap inf: give a finite number"),
        ("extract", [f"--samples={10**30}"], "--samples 1e+30: give a smaller number"),
        ("finetune", ["--report-to=no-such"], "--report-to no-such: "),
        ("finetune", ["--report-to=wandb"], "--report-to wandb: "),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_model_is_loaded(
    call: Call, name: str, arguments: list[str], message: str
) -> None:
    code, error = call(name, *COMMANDS[name], *arguments)
    assert code == 2
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["no-such-folder", "none.gguf", "no such/model", "/proc/nope"])
def test_a_tuned_model_that_does_not_exist_is_told_before_work(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="was not found") as raised:
        check_tuned(name)
    assert "\n" not in str(raised.value)


def test_a_verb_that_is_called_says_what_to_call() -> None:
    """In whatever order it was imported."""
    verbs = [
        name for name in personavec.__all__ if isinstance(getattr(personavec, name), ModuleType)
    ]
    assert {"extract", "screen", "finetune"} <= set(verbs)
    for name in verbs:
        with pytest.raises(TypeError, match=rf"call personavec.{name}.run\(…\)"):
            getattr(personavec, name)("smollm2")
        assert callable(getattr(personavec, name).run)
    code = "import personavec.screen; from personavec import screen; screen()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stderr.splitlines()[-1].endswith("call personavec.screen.run(…)")
