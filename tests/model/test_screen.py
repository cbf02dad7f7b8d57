"""The screen on the embedded model: a killed process, and rows that show a trait or do not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from killed_runs import kill_when

from personavec import LoadedModel, load_vector
from personavec.progress import Progress
from personavec.screen import FlagRule, pipeline as screen
from personavec.traits import load_trait

GLOOMY = "Nothing will ever get better. It is hopeless, and everything only gets worse from here."
HOPEFUL = "What a wonderful chance! I am sure that it will all turn out well, and even better."


def _write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_killed_screen_continues_with_the_same_command(tmp_path: Path) -> None:
    """Kill -9 once the first of three windows is on disk; the end equals an undisturbed run's."""
    rows = [{"id": str(i), "prompt": f"Say {i}.", "completion": f"{i} it is."} for i in range(1100)]
    data = _write(tmp_path / "data.jsonl", rows)
    command = [
        sys.executable,
        "-c",
        "from personavec.cli.main import main; main()",
        "screen",
        str(data),
        "--vectors=optimistic",
        "--layer=2",
        "--top=5",
        "--json",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = tmp_path / "out" / "run" / "0-data" / "000000.parquet"
    killed = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    kill_when(first.exists, killed)
    stamp = first.stat().st_mtime_ns

    found = {}
    for name in ("out", "whole"):
        done = subprocess.run(
            [*command, "--out", str(tmp_path / name)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found[name] = json.loads(done.stdout)  # one object, and nothing else
    assert first.stat().st_mtime_ns == stamp
    scored = _read(tmp_path / "out" / "rows.jsonl")
    assert [row["id"] for row in scored] == [row["id"] for row in rows]
    assert scored == _read(tmp_path / "whole" / "rows.jsonl")
    assert found["out"]["rows"] == 1100
    assert found["out"]["traits"] == found["whole"]["traits"]


def test_hopeful_rows_project_higher_than_gloomy_ones(tmp_path: Path, smollm2: LoadedModel) -> None:
    questions = load_trait("optimistic")[0].questions.evaluation[:6]
    rows = [
        {"prompt": question, "completion": text}
        for question in questions
        for text in (HOPEFUL, GLOOMY)
    ]
    results = screen.run(
        smollm2,
        [load_vector("optimistic")],
        [_write(tmp_path / "data.jsonl", rows)],
        tmp_path / "out",
        screen.ScreenConfig(natural="generate", natural_tokens=16, rule=FlagRule(top=6)),
        naturals=tmp_path / "naturals",
        progress=Progress(quiet=True),
    )
    scored = _read(tmp_path / "out" / "rows.jsonl")
    differences = np.array([row["optimistic_difference"] for row in scored])
    assert (differences[::2] > differences[1::2]).all()
    assert [row["optimistic_flag"] for row in scored] == [True, False] * 6
    ranked = results.traits["optimistic"].ranked
    assert {row.messages[-1]["content"] for row in ranked.high[:6]} == {HOPEFUL}
    assert all(row.natural for row in ranked.high)


def test_bf16_batches_agree_with_single_rows(tmp_path: Path, smollm2: LoadedModel) -> None:
    """Batching changes a projection only by rounding: far less than rows differ."""
    rows = [{"prompt": "Say it.", "completion": HOPEFUL[:n]} for n in (20, 45, 80)]
    data = _write(tmp_path / "data.jsonl", rows)
    values = []
    for budget in (1, 4096):
        screen.run(
            smollm2,
            [load_vector("optimistic")],
            [data],
            tmp_path / str(budget),
            screen.ScreenConfig(batch_tokens=budget),
            progress=Progress(quiet=True),
        )
        scored = _read(tmp_path / str(budget) / "rows.jsonl")
        values.append([row["optimistic_projection"] for row in scored])
    assert np.array(values[0]) == pytest.approx(np.array(values[1]), abs=0.5)
    assert np.ptp(values[0]) > 3
