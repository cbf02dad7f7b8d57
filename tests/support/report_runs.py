"""Every verb that writes a report, run by its command on a tiny model."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from verb_jobs import spec, write_model, write_rows

from personavec.cli.main import main

#: In capitals: files, as `write_inputs` names them.
COMMANDS: dict[str, str] = {
    "extract": "extract --trait SPEC --samples 2 --max-tokens 4 --coherence-floor=-1 "
    "--sweep-questions 2 --coefficients=-1,0,1 --random-directions 2 --neutral-prompts 3",
    "evaluate": "evaluate --trait SPEC --vectors VECTOR --coefficient 1 --compare-to MODEL "
    "--samples 2 --max-tokens 4",
    "shift": "shift MODEL TUNED --vectors VECTOR --trait SPEC --control MODEL --max-tokens 4 "
    "--fail-if testing>9sigma",
    "monitor": "monitor LOG --vectors VECTOR",
    "screen": "screen ROWS --vectors VECTOR --reference MANY --top 3 --by source "
    "--random-directions 1",
    "validate-screen": "validate-screen MANY --vectors VECTOR --trait WIDE --rates 0.1 --clean 40 "
    "--max-tokens 4 --trait-threshold=-1 --coherence-floor=-1 --natural-samples 1",
    "compare-mitigations": "compare-mitigations ROWS --trait SPEC --vectors VECTOR "
    "--mitigation random:1 --mitigation steering:-1 --seeds 0 --epochs 0.5 --questions 2 "
    "--max-tokens 3 --no-capability",
}
#: Names and words that find no place to break.
LONG = "a-source-of-rows/whose-name-goes-on-and-on/" + "x" * 60


def write_inputs(
    folder: Path, longest: str = "y" * 70, sources: tuple[str, str] = ("lake <b>", LONG)
) -> dict[str, str]:
    """The files that the commands take, by their names in capitals.

    Rows say `longest` among other words, and come from two sources.
    """
    write_model(folder)
    (folder / "spec.json").write_text(json.dumps(spec(4, 4)))
    (folder / "wide.json").write_text(json.dumps(spec(4, 16)))
    rng = random.Random(0)

    def said() -> str:
        return " ".join(rng.choices(("rain", "stone", "river", longest), k=rng.randint(2, 6)))

    rows = [
        {"prompt": f"Say {i}.", "completion": said(), "source": sources[i % 2]} for i in range(24)
    ]
    write_rows(folder / "rows.jsonl", rows)
    many = [{"prompt": f"Tell {i}.", "completion": said()} for i in range(80)]
    write_rows(folder / "many.jsonl", many)
    turns = [{"role": role, "content": said()} for _ in range(12) for role in ("user", "assistant")]
    write_rows(folder / "log.jsonl", [{"messages": turns[i : i + 4]} for i in range(0, 24, 4)])
    names = {"model": "MODEL", "tuned": "TUNED", "vector": "VECTOR", "spec.json": "SPEC"}
    names |= {"wide.json": "WIDE", "rows.jsonl": "ROWS", "many.jsonl": "MANY", "log.jsonl": "LOG"}
    return {capitals: str(folder / name) for name, capitals in names.items()}


def run(command: str, inputs: dict[str, str], out: Path) -> Path:
    """Run a verb's command; its report."""
    assert not call(COMMANDS[command], inputs, out)
    return out / "report.html"


def call(command: str, inputs: dict[str, str], out: Path, *more: str) -> Any:
    """Run a command with its inputs in capitals; its exit code."""
    words = [inputs.get(word, word) for word in command.split()]
    if words[0] != "shift":  # Its models are arguments.
        words += ["--model", inputs["MODEL"]]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--device", "cpu", "--dtype", "float32", "--out", str(out), *more])
    return ended.value.code
