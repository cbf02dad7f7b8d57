"""The examples run as they are, on small sizes, and what they print is what they claim."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def printed(
    name: str,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    **sizes: int,
) -> str:
    """What an example prints; `sizes` are its environment variables."""
    for variable, value in {"OUT": out, **sizes}.items():
        monkeypatch.setenv(variable, str(value))
    runpy.run_path(str(EXAMPLES / f"{name}.py"))
    return capsys.readouterr().out


def test_extract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A verdict is printed, log-odds that rise, and three answers."""
    text = printed("01_extract", tmp_path, monkeypatch, capsys, QUESTIONS=6, TOKENS=12)
    assert re.search("^(passed|failed|not decided)", text, re.MULTILINE)
    doses = re.findall(r"α = (\S+): log-odds (\S+) \[", text)
    assert [float(dose) for dose, _ in doses] == [-4, -2, -1, 0, 1, 2, 4]
    assert float(doses[-1][1]) > float(doses[0][1])
    assert (tmp_path / "report.html").exists()


def test_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the listless rows a larger share is flagged than of the others."""
    text = printed("02_screen", tmp_path, monkeypatch, capsys, ROWS=16)
    found = {g: (int(n), int(of)) for g, n, of in re.findall(r"^(\w+): (\d+) of (\d+)", text, re.M)}
    assert found.keys() == {"listless", "ordinary"}
    assert found["listless"][0] / 6 > found["ordinary"][0] / 16
    assert [found["listless"][1], found["ordinary"][1]] == [6, 16]


def test_vaccine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both finetunes learn the rows; both are compared with the model before."""
    sizes = {"EPOCHS": 2, "QUESTIONS": 4, "TOKENS": 8}
    text = printed("03_vaccine", tmp_path, monkeypatch, capsys, **sizes)
    losses = re.findall(r"^(\w+): loss (\S+) → (\S+) nats", text, re.MULTILINE)
    assert [name for name, *_ in losses] == ["plain", "vaccinated"]
    assert all(float(last) < float(first) for _, first, last in losses[:1])
    assert len(re.findall(r"apathy [+-]\S+ nats \[", text)) == 2


def test_monitor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The listless answers lie further along apathy than the plain one."""
    text = printed("04_monitor", tmp_path, monkeypatch, capsys, ROWS=8)
    answers = [float(sigma) for sigma in re.findall(r"the answer (\S+) σ$", text, re.MULTILINE)]
    assert len(answers) == 7
    assert sum(answers[1:]) / 6 > answers[0]
    assert re.search(r"^apathetic: answers .* alarms$", text, re.MULTILINE)
