"""docs/formats.md does what it says: its commands run, its requests are what `export` prints."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from personavec import LoadedModel, load_vector, project_conversation
from personavec.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
BLOCKS = re.findall(r"^ *```(sh|python)\n(.*?)^ *```", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line)[1:]
    for language, block in BLOCKS
    for line in block.splitlines()
    if language == "sh" and line.strip().startswith("personavec ")
]


def cli(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """One JSON object on stdout and exit code 0."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return json.loads(captured.out)


def test_the_page_does_what_it_says(
    smollm2: LoadedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every command in order, so that what was exported comes back in, steers and reads."""
    monkeypatch.chdir(tmp_path)
    found = [cli(arguments, capsys) for arguments in COMMANDS]
    # An export names the tool; the number beside an import is that of its results.
    exported = [result for result in found if "use" in result]
    assert {result["format"] for result in exported} == {"pt", "gguf", "vllm-lens", "hotwire"}
    imported = next(result for result in found if "vector" in result)
    vector = load_vector(imported["vector"])
    assert (vector.trait, vector.layer, imported["neutral_prompts"]) == ("evil", 22, 48)
    conversation = [
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Hello, how can I help you?"},
    ]
    (reading,) = project_conversation(smollm2, vector, conversation)
    # An ordinary answer is an ordinary one by the measured baseline: within five of its spreads.
    assert abs(reading.response_mean_sigma) < 5

    # The request that the page shows for hotwire is the one that was printed.
    (shown,) = re.findall(r'"hotwire":\s*("(?:[^"\\]|\\.)*")', PAGE)
    printed = next(result for result in exported if result["format"] == "hotwire")["use"][-1]
    body = json.loads(shlex.split(printed)[-1])
    assert json.loads(body["vllm_xargs"]["hotwire"]) == json.loads(json.loads(shown))

    # The Python on the page reads the file that a command above it wrote.
    pytest.importorskip("vllm_lens", reason="vllm-lens is not installed; make test does")
    (code,) = [block for language, block in BLOCKS if language == "python"]
    names: dict[str, Any] = {}
    exec(compile(code, "formats.md", "exec"), names)
    (steering,) = names["vectors"]
    humorous = load_vector("humorous")
    assert steering.layer_indices == [humorous.layer - 1]
    assert steering.scale == 1.5
    assert names["body"]["vllm_xargs"]["apply_steering_vectors"] == names["text"]
