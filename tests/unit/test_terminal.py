"""What is quoted steers neither the terminal nor the report; a closed pipe ends quietly."""

import json
import os
import re
import shlex
import subprocess
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from rich.table import Table
from tiny_models import save

from personavec import LoadedModel, PersonaVector, terminal
from personavec.cli.groups import PrintOptions, ReportOptions
from personavec.cli.main import main
from personavec.report import page
from personavec.screen import charts
from personavec.screen.results import GroupMean
from personavec.terminal import Ending

#: Colours, a hidden link, a window's title, C1, and text that runs backwards.
HOSTILE = "\x1b[31mred \x1b]8;;http://x\x1b\\ \x1b]0;title\x07 \x9b2J \u202etxt.exe\u2066 \x7f"
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _run(*arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "personavec", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def _written(folder: Path, loaded: LoadedModel, vector: PersonaVector) -> Path:
    """Where the model is, beside the vector."""
    save(loaded, folder / "model")
    vector.save(folder / "vector")
    return folder / "model"


def test_a_screen_of_hostile_names(
    tmp_path: Path, llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    """In a column's name, its values, a file's name and an error; and links in the report."""
    model = _written(tmp_path, llama, random_vector(llama, 1, "one"))
    link = '<a href="http://x.example">free</a>'
    rows = [
        {"prompt": f"Say {i}", "completion": "yes", "by": (link, f"[/red]{HOSTILE}")[i % 2]}
        for i in range(12)
    ]
    data = tmp_path / f"data{HOSTILE.replace('/', '')}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["screen", str(data), f"--vectors={tmp_path / 'vector'}", f"--model={model}"]
    arguments += ["--dtype=float32", "--by=by", f"--out={tmp_path / 'out'}"]
    with _run(*arguments) as done:
        out, err = (text.decode() for text in done.communicate())
    assert done.returncode == 0, err
    assert not _STEERING.search(out + err)
    assert r"\x1b[31mred" in out
    report = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert '<a href="http' not in report
    assert '<a href="#' in report


def test_what_was_found_goes_to_stdout_and_how_it_goes_on_to_stderr(
    tmp_path: Path, llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    """As docs/commands.md says; with --json stdout is one object."""
    model = _written(tmp_path, llama, random_vector(llama, 1, "one"))
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": f"Say {i}", "completion": "yes " * (i + 1)} for i in range(12)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["screen", str(data), f"--vectors={tmp_path / 'vector'}", f"--model={model}"]
    arguments += ["--dtype=float32", "--top=3", f"--out={tmp_path / 'out'}"]
    found: dict[str, tuple[str, str]] = {}
    for how in ("", "--json"):
        with _run(*arguments, *filter(None, [how])) as done:
            out, err = (text.decode() for text in done.communicate())
        assert done.returncode == 0, err
        found[how] = out, err
    ends = ("rows are flagged", "report: ", "next, ")
    out, err = found[""]
    assert all(end in out and end not in err for end in ends)
    assert "data: read as" in err
    assert "read as" not in out
    out, err = found["--json"]
    assert json.loads(out)["rows"] == 12
    assert json.loads(out)["data"]["data"]["readers"]
    assert not any(end in err for end in ends)


def test_an_error_that_quotes_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["screen", f"{HOSTILE}.jsonl", f"--vectors={HOSTILE}"])
    said = capsys.readouterr()
    assert "error: " in said.err
    assert not _STEERING.search(said.out + said.err)


def test_json_is_escaped_and_means_the_same() -> None:
    found = {"name": HOSTILE, "half \ud83d": "\u2028 ü"}
    text = terminal.shown_json(found)
    assert not _STEERING.search(text)
    assert "ü" in text
    assert json.loads(text) == found


def test_markup_in_texts_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    console = terminal.make_console()
    table = Table("[red]column", "[/x]")
    table.add_row(":smile: [bold]", HOSTILE)
    console.print(table)
    console.print(f"[/y] {HOSTILE}")
    shown = capsys.readouterr().out
    assert not _STEERING.search(shown)
    for text in ("[red]column", "[/x]", ":smile: [bold]", "[/y]"):
        assert text in shown


def test_chart_labels_hold_no_links_and_show_what_they_say() -> None:
    names = ['<a href="x">y</a>', "R&D <b>", "&lt;i&gt;"]
    rows = [
        GroupMean(
            group=name,
            mean=float(i),
            low=None,
            high=None,
            n=2,
            flagged=None,
            mean_without=None,
            rank=i + 1,
        )
        for i, name in enumerate(names)
    ]
    drawn = str(page.chart(charts.group_means(rows, "σ"), "Mean"))
    for name in names:
        assert drawn.count(f">{escape(name)}</text>") == 2
    assert "<a" not in drawn
    assert "<b>" not in drawn


@pytest.mark.parametrize("arguments", [("traits", "show", "evil", "--json"), ("--help",)])
def test_a_closed_pipe_ends_quietly(arguments: tuple[str, ...]) -> None:
    """Before anything is written, and after some of it."""
    for reads in (0, 1):
        with _run(*arguments, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as running:
            assert running.stdout is not None
            assert running.stderr is not None
            running.stdout.read(reads)
            running.stdout.close()
            assert running.stderr.read() == b""
        assert running.returncode in (0, 141)


@pytest.mark.parametrize("width", [30, 80, 200])
def test_a_command_that_is_shown_can_be_pasted(width: int) -> None:
    words = ["steer", "How's your day?", "--vectors", "out/evil, again", "--coefficient=-1"]
    lines = terminal.command_lines(words, width)
    pasted = shlex.split("\n".join(lines).replace("\\\n", " "))
    assert pasted == ["personavec", *words]
    assert max(map(len, lines)) <= width
    assert len(lines) == 1 or width < 200


@pytest.mark.parametrize("there", [True, False, None])
def test_a_report_is_opened_or_its_place_said(
    there: bool | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a browser, and where looking for one fails."""
    opened: list[str] = []

    def browser(address: str) -> bool:
        opened.append(address)
        if there is None:
            raise webbrowser.Error("no browser")
        return there

    monkeypatch.setattr("webbrowser.open", browser)
    ending = Ending(conclusion="It holds.", written=Path("out/report.html"))
    record = {"verdict": "passed"}
    ReportOptions(open_report=True).end(PrintOptions(as_json=True), record, list, ending)
    said = capsys.readouterr()
    assert opened == [Path("out/report.html").resolve().as_uri()]
    assert json.loads(said.out) == record
    assert ("out/report.html" in said.err) == (not there)
    ReportOptions().end(PrintOptions(), record, lambda: print("shown"), ending)
    assert len(opened) == 1
    assert capsys.readouterr().out == "shown\nIt holds.\nreport: out/report.html\n"


def test_lines_break_between_words_and_paths_stay_whole() -> None:
    path = "/a/path/that/is/longer/than/the/line/is.jsonl"
    text = f"a first line and more\n  written to {path} at last"
    lines = terminal.wrapped(text, 16).splitlines()
    assert path in lines
    assert all(len(line) <= 16 for line in lines if line != path)
    assert " ".join("\n".join(lines).split()) == " ".join(text.split())
