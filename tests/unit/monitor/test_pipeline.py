"""Monitoring a log: every turn once, bad lines aside, a killed run like an undisturbed one."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny_models

from personavec import LoadedModel, PersonaVector, load_vector, monitor, project_conversation
from personavec.data import ColumnMap
from personavec.errors import DataError, SettingsMismatchError
from personavec.model.engine import TransformersEngine
from personavec.monitor import MonitorConfig, MonitorResults, log as reading
from personavec.monitor.conclusion import conclusion
from personavec.progress import Progress
from personavec.results import read as read_results
from personavec.runs import read_records
from personavec.vectors import PERCENTILES, Calibration, Ordinary
from personavec.vectors.limits import ChartRule

WORDS = ("Hi there", "And then?", "Why is that", "<b>So & so</b>", "Äpfel 🙂", "None")
QUIET = Progress(quiet=True)


def talk(n: int, turns: int) -> list[dict[str, str]]:
    messages = []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"{WORDS[(n + turn) % 6]} {n}"})
        messages.append({"role": "assistant", "content": f"{WORDS[(n * turn + 1) % 6]}."})
    return messages


def write_log(path: Path, n: int = 12) -> Path:
    lines = [json.dumps({"id": f"c{i}", "messages": talk(i, 1 + i % 3)}) for i in range(n)]
    lines.insert(2, "{broken")
    lines.insert(5, json.dumps({"messages": [{"role": "user", "content": "No answer?"}]}))
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture
def vectors(llama: LoadedModel, random_vector: Callable[..., PersonaVector]) -> list[PersonaVector]:
    """One with limits and a calibration, one without."""
    plain = random_vector(llama, 1, "one")
    measured = random_vector(llama, 3, "two")
    calibration = Calibration(
        trait="two",
        vector=measured.hash,
        layer=3,
        unit="log_odds",
        slope=2.0,
        intercept=1.0,
        below=-3.0,
        above=4.0,
        tokens=tuple(map(float, PERCENTILES)),
    )
    rule = ChartRule(0.5, 0.2)
    ordinary = Ordinary(((0.5, 2.0), (1.0, 1.0)), rule, rule, n=80)
    return [plain, replace(measured, calibration=calibration, ordinary=ordinary)]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_turn_of_a_log_is_read_once(
    llama: LoadedModel, vectors: list[PersonaVector], tmp_path: Path
) -> None:
    """As each conversation alone; the forecast and the chart recomputed from the readings."""
    log = write_log(tmp_path / "log.jsonl")
    results = monitor.run(llama, vectors, log, tmp_path / "out", progress=QUIET)
    rows = read(tmp_path / "out" / "readings.jsonl")
    assert results.turns == len(rows) == sum(1 + i % 3 for i in range(12))
    for i in range(12):
        for vector in vectors:
            own = [row for row in rows if row["conversation"] == f"c{i}"]
            alone = project_conversation(llama, vector, talk(i, 1 + i % 3))
            average = 0.0
            for n, (row, expected) in enumerate(zip(own, alone, strict=True)):
                assert (row["turn"], row["message"]) == (n, 2 * n + 1)
                for name in ("prompt_last", "prompt_last_sigma", "response_mean_sigma"):
                    found = row[f"{vector.trait}_{name}"]
                    assert found == pytest.approx(getattr(expected, name), abs=1e-3)
                if vector.trait == "two":
                    last = row["two_prompt_last"]
                    assert row["two_forecast_value"] == pytest.approx(1 + 2 * last)
                    assert row["two_forecast_high"] == pytest.approx(5 + 2 * last)
                    mean, spread = [(0.5, 2.0), (1.0, 1.0), (1.0, 1.0)][n]
                    average += 0.5 * ((row["two_response_mean_sigma"] - mean) / spread - average)
                    level = average / (1 / 3 * (1 - 0.25 ** (n + 1))) ** 0.5
                    assert row["two_drift"] == pytest.approx(level)
    assert results.traits["two"].alarms == sum(row["two_alarm"] for row in rows)
    assert monitor.summarised(results).keys() >= {"turns", "rejected", "traits", "out"}
    assert "'one'" not in results.notes[0]
    assert "one" in results.notes[0]


def test_what_is_no_conversation_is_kept_aside_with_its_reason(
    llama: LoadedModel, vectors: list[PersonaVector], tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log.jsonl")
    results = monitor.run(llama, vectors, log, tmp_path / "out", progress=QUIET)
    rejects = read_records(tmp_path / "out" / "rejects.jsonl")
    assert results.rejected == 2
    assert [r["number"] for r in rejects] == [3, 6]
    assert rejects[0]["text"] == "{broken"
    assert "no assistant turn" in rejects[1]["reason"]
    with pytest.raises(DataError, match="more than the 1 allowed"):
        monitor.run(
            llama, vectors, log, tmp_path / "b", MonitorConfig(max_rejects=1), progress=QUIET
        )


def test_the_report_shows_the_extreme_turns_token_by_token_and_escapes_them(
    llama: LoadedModel, vectors: list[PersonaVector], tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log.jsonl", 15)
    config = MonitorConfig(extremes=25)
    results = monitor.run(llama, vectors, log, tmp_path / "out", config, progress=QUIET)
    rows = read(tmp_path / "out" / "readings.jsonl")
    for trait, found in results.traits.items():
        assert len(found.extremes) == 25
        highest = sorted((row[f"{trait}_response_mean_sigma"] for row in rows), reverse=True)
        assert [turn.response_mean for turn in found.extremes] == highest[:25]
        for turn in found.extremes:
            messages = talk(int(turn.conversation[1:]), 3)
            text = messages[turn.message]["content"]
            assert turn.question == messages[turn.message - 1]["content"]
            assert "".join(piece.text for piece in turn.pieces) == text
            values = [piece.sigma * len(piece.text.encode()) for piece in turn.pieces]
            mean = sum(values) / len(text.encode())
            assert mean == pytest.approx(turn.response_mean, abs=0.02)
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "<b>So & so</b>" not in page
    shares = {name: found.drift.conversations for name, found in results.traits.items()}
    for name, share in shares.items():
        assert (f"{share.hits} toward {name}" in conclusion(results)) == bool(share.hits)
        assert f"in {share.of} conversations" in conclusion(results)


def test_every_row_is_parsed_once_and_every_text_projected_once(
    llama: LoadedModel,
    vectors: list[PersonaVector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The extremes' texts come from the same pass, and from the engine that reads the log."""
    monkeypatch.setattr(reading, "WINDOW", 4)
    parsed, projected, forwards = [], [], []
    parse, engine = reading.parse_row, TransformersEngine(llama)

    def counted(raw: Any, *given: Any) -> Any:
        parsed.append(raw.index)
        return parse(raw, *given)

    class Engine(TransformersEngine):
        def project(self, texts: Any, *given: Any, **more: Any) -> Any:
            projected.extend(texts)
            before = len(forwards)
            values = engine.project(texts, *given, **more)
            del forwards[before:]
            return values

    monkeypatch.setattr(reading, "parse_row", counted)
    log = write_log(tmp_path / "log.jsonl")
    hook = llama.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    inner = llama.model.get_input_embeddings().register_forward_pre_hook(
        lambda *_: forwards.append(1)
    )
    try:
        results = monitor.run(
            llama, vectors, log, tmp_path / "out", engine=Engine(llama), progress=QUIET
        )
    finally:
        hook.remove()
        inner.remove()
    assert all(len(found.extremes) == 6 for found in results.traits.values())
    assert parsed == list(range(14))
    assert len(projected) == results.conversations == 12
    assert not forwards, "the model ran outside the engine"
    stored = read_results(MonitorResults, tmp_path / "out" / "results.json")
    assert stored == results
    again = monitor.run(llama, vectors, log, tmp_path / "out", progress=QUIET)
    assert replace(again, seconds=0, engine={}) == replace(results, seconds=0, engine={})
    assert len(parsed) == 14, "what was read is not read again"


def test_more_extremes_than_a_run_has_shown_are_read_again_and_no_others(
    llama: LoadedModel,
    vectors: list[PersonaVector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "WINDOW", 4)
    log, folder = write_log(tmp_path / "log.jsonl", 30), tmp_path / "out"
    monitor.run(llama, vectors, log, folder, MonitorConfig(extremes=0), progress=QUIET)
    found = monitor.run(llama, vectors, log, folder, MonitorConfig(extremes=2), progress=QUIET)
    fresh = monitor.run(
        llama, vectors, log, tmp_path / "new", MonitorConfig(extremes=2), progress=QUIET
    )
    assert {t: own.extremes for t, own in found.traits.items()} == {
        t: own.extremes for t, own in fresh.traits.items()
    }
    read_anew = []
    window = reading._read_window
    monkeypatch.setattr(
        reading,
        "_read_window",
        lambda job, number, *rest: read_anew.append(number) or window(job, number, *rest),
    )
    more = monitor.run(llama, vectors, log, folder, MonitorConfig(extremes=3), progress=QUIET)
    added = {own.extremes[2].index // 4 for own in more.traits.values()}
    assert set(read_anew) <= added
    monitor.run(llama, vectors, log, folder, MonitorConfig(extremes=1), progress=QUIET)
    assert len(read_anew) <= len(added)


def test_a_log_may_have_columns_with_the_names_of_readings(
    llama: LoadedModel, vectors: list[PersonaVector], tmp_path: Path
) -> None:
    """Readings hold no column of the log, so that none is written over; the results name it."""
    own = {"one_prompt_last": "mine", "two_projection": 1.5, "n_tokens": "many"}
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"id": "a", "messages": talk(1, 2), **own}) + "\n")
    results = monitor.run(llama, vectors, log, tmp_path / "out", progress=QUIET)
    alone = project_conversation(llama, vectors[0], talk(1, 2))
    for row, expected in zip(read(tmp_path / "out" / "readings.jsonl"), alone, strict=True):
        assert row["one_prompt_last"] == pytest.approx(expected.prompt_last, abs=1e-3)
        assert row["n_tokens"] == expected.n_tokens
        assert "two_projection" not in row
    assert set(results.data["log"].ignored_columns) == {"one_prompt_last"}


def test_a_log_without_an_answer_to_read_is_an_error(
    llama: LoadedModel, vectors: list[PersonaVector], tmp_path: Path
) -> None:
    """No alarm was possible, and none is reported."""
    log = tmp_path / "log.jsonl"
    messages = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": ""}]
    log.write_text(json.dumps({"messages": messages}) + "\n")
    with pytest.raises(DataError, match=r"no (turn|row) of"):
        monitor.run(llama, vectors, log, tmp_path / "out", progress=QUIET)


def test_tokens_and_parquet_on_request(
    llama: LoadedModel, vectors: list[PersonaVector], tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log.jsonl")
    config = MonitorConfig(tokens=True, format="parquet", extremes=0)
    monitor.run(llama, vectors, log, tmp_path / "out", config, progress=QUIET)
    for row in pq.read_table(tmp_path / "out" / "readings.parquet").to_pylist():
        tokens = row["two_tokens"]
        assert len(tokens) == row["n_tokens"]
        assert sum(tokens) / len(tokens) == pytest.approx(row["two_response_mean"], abs=1e-3)


def test_limits_are_fitted_on_one_half_and_reported_on_the_other(
    llama: LoadedModel, vectors: list[PersonaVector], tmp_path: Path
) -> None:
    """The file that is written serves the vector that it belongs to, and no other."""
    log = write_log(tmp_path / "log.jsonl", n=120)
    folder = tmp_path / "limits"
    results = monitor.run(llama, vectors, log, tmp_path / "out", fit_limits=folder, progress=QUIET)
    limits = results.limits
    assert limits is not None
    # Of 122 rows, two are no conversations: those of rows 2 and 5.
    assert (limits.fitted_on, limits.tested_on) == (60, 60)
    assert limits.any.of == 60
    rows = read(tmp_path / "out" / "readings.jsonl")
    assert limits.server_turns == sum(row["index"] % 2 for row in rows)
    vectors[0].save(folder / "one")
    found = load_vector(folder / "one").ordinary
    assert found is not None
    assert found.n == 60
    (folder / "two" / "vector.json").write_text((folder / "one" / "vector.json").read_text())
    (folder / "two" / "vector.safetensors").write_bytes(
        (folder / "one" / "vector.safetensors").read_bytes()
    )
    with pytest.raises(DataError, match="another vector"):
        load_vector(folder / "two")


def test_a_killed_run_ends_like_an_undisturbed_one(
    llama: LoadedModel,
    vectors: list[PersonaVector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed by the system between two windows, in a process of its own."""
    monkeypatch.setattr(reading, "WINDOW", 3)
    log = write_log(tmp_path / "log.jsonl")
    out = tmp_path / "killed"
    vectors[0].save(tmp_path / "one")
    script = tmp_path / "run.py"
    script.write_text(
        _SCRIPT.format(
            scripts=str(Path(tiny_models.__file__).parent),
            vector=str(tmp_path / "one"),
            log=str(log),
            out=str(out),
        )
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"wrote\n"
        process.kill()
    assert not (out / "readings.jsonl").exists()
    assert len(list((out / "run").glob("*.parquet"))) == 1
    # What the kill may have left: rejects of a window whose part was not written.
    with (out / "rejects.jsonl").open("a") as file:
        file.write(json.dumps({"dataset": "log", "index": 5}) + "\n")
    resumed = monitor.run(llama, vectors[:1], log, out, progress=QUIET)
    whole = tmp_path / "whole"
    expected = monitor.run(llama, vectors[:1], log, whole, progress=QUIET)
    assert replace(resumed, out="", files=expected.files, seconds=0) == replace(
        expected, out="", seconds=0
    )
    found = resumed.data["log"]
    assert sum(found.readers.values()) == resumed.conversations
    assert sum(found.rejected.values()) == resumed.rejected == 2
    for name in ("readings.jsonl", "rejects.jsonl"):
        assert read(out / name) == read(whole / name)
    config = MonitorConfig(columns=ColumnMap(id="messages"))
    with pytest.raises(SettingsMismatchError, match=r"columns\.id"):
        monitor.run(llama, vectors[:1], log, out, config, progress=QUIET)


_SCRIPT = """
import sys, time
from pathlib import Path
from personavec import load_vector, monitor
from personavec.monitor import log
from personavec.progress import Progress
from personavec.data import parts
sys.path.append({scripts!r})
import tiny_models
write = parts.write_part
def then_wait(path, table):
    write(path, table)
    print("wrote", flush=True)
    time.sleep(60)
parts.write_part = then_wait
log.WINDOW = 3
vector = load_vector({vector!r})
model, quiet = tiny_models.build("llama"), Progress(quiet=True)
monitor.run(model, [vector], {log!r}, Path({out!r}), progress=quiet)
"""
