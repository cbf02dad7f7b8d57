"""The section of docs/results.md on traits from a name alone: made from runs, and as it stands."""

import json
import re
import sys
from pathlib import Path

import pytest
import results as results_script
from results_extractions import extractions
from results_page import section
from unbundled import UNBUNDLED

from personavec.extract import ExtractResults
from personavec.results import read
from personavec.vectors.verdict import MEANINGS

ROOT = Path(__file__).parents[2]
STORED = ROOT / "tests" / "unit" / "terminal" / "extract.json"
TITLE = "Traits from a name alone"
FAILED, *FOUND = UNBUNDLED


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def parts(text: str) -> tuple[str, dict[str, str]]:
    """What stands above the subsections, and each subsection by its title."""
    first, *others = re.split(r"^### ", text, flags=re.MULTILINE)
    return first, {each.splitlines()[0]: each for each in others}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Runs of a small model: one that failed, others that ended, and one that was killed."""
    record = json.loads(STORED.read_text("utf-8"))
    for name in FOUND:
        folder = tmp_path / "unbundled" / name
        folder.mkdir(parents=True)
        record["trait"]["name"] = name
        (folder / "results.json").write_text(json.dumps(record))
    for name, file in ((FAILED, "failed.txt"), ("killed", "manifest.json")):
        folder = tmp_path / "unbundled" / name
        folder.mkdir()
        (folder / file).write_text("only 3 rollouts are left\n")
    return tmp_path


def test_the_section_has_every_run_that_ended(out: Path) -> None:
    """Each figure against the typed results."""
    text = extractions(TITLE, out / "unbundled", UNBUNDLED)
    assert text.startswith(f"## {TITLE}\n")
    assert f"**{FAILED}: FAILED.** only 3 rollouts are left\n" in text
    assert "killed" not in text
    summary, curves = parts(text)
    found = read(ExtractResults, STORED)
    kept = " / ".join(f"{found.rollouts[p].kept} of {found.rollouts[p].of}" for p in ("pos", "neg"))
    assert [row[:3] for row in rows(summary)] == [[n, str(found.layer), kept] for n in FOUND]
    for row in rows(summary):
        cosine = found.split_half_cosine
        expected = "not measured"
        if cosine is not None and cosine.value is not None:
            expected = f"{cosine.value:.2f} ({cosine.low:.2f} to {cosine.high:.2f})"
        assert row[-2:] == [expected, found.verdict.words]
    assert list(curves) == FOUND
    for curve in curves.values():
        doses = [(f"{d.coefficient:+g}", f"{d.coherence:.0f}") for d in found.dose_response]
        assert [(row[0], row[3]) for row in rows(curve)] == doses


def test_only_the_traits_that_are_asked_for_are_in_it(out: Path) -> None:
    text = extractions(TITLE, out / "unbundled", FOUND[:1])
    assert [row[0] for row in rows(parts(text)[0])] == FOUND[:1]
    assert FAILED not in text
    assert extractions(TITLE, out / "nothing") == ""


def test_the_page_of_results_holds_it(
    out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(results_script, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["results.py", str(out)])
    results_script.main()
    page = (tmp_path / "results.md").read_text("utf-8")
    found = section(page, TITLE)
    assert found is not None
    assert found.strip() == extractions(TITLE, out / "unbundled").strip()


def test_the_page_that_ships_is_whole_and_agrees_with_itself() -> None:
    """Every trait has its row and its curve, whose ends are those of the row."""
    text = section((ROOT / "docs" / "results.md").read_text("utf-8"), TITLE)
    assert text is not None
    summary, curves = parts(text)
    failed = re.findall(r"^\*\*(\w+): FAILED\.\*\*", summary, re.MULTILINE)
    assert sorted([*failed, *(row[0] for row in rows(summary))]) == sorted(UNBUNDLED)
    assert list(curves) == [row[0] for row in rows(summary)]
    known = {"passed", *(meaning for pair in MEANINGS.values() for meaning in pair)}
    for row in rows(summary):
        doses = {dose[0]: dose for dose in rows(curves[row[0]])}
        reported = [c for c, dose in doses.items() if dose[-1] == "yes"]
        for cell, end in ((row[4], reported[0]), (row[6], reported[-1])):
            assert cell == f"{doses[end][2]} at {end}"
        assert row[5] == doses["+0"][2]
        verdict = re.sub(r"^(failed|not decided): ", "", row[-1])
        assert set(verdict.split("; ")) <= known
