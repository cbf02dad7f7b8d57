"""What commands print of stored results, at 80 columns: no line is wider, and no word is cut.

The results in `terminal/` are of small runs of the embedded model, one of a tiny one. So that rows
and columns are many, what is measured of one trait stands for all that are bundled.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from rich.console import Console

from personavec import terminal
from personavec.doctor import run as doctor, terminal as of_doctor
from personavec.evaluate import terminal as of_evaluate
from personavec.evaluate.config import EvaluateInputs
from personavec.evaluate.results import EvaluateResults
from personavec.evaluate.shift import terminal as of_shift
from personavec.evaluate.shift.config import ShiftInputs
from personavec.evaluate.shift.results import ShiftResults
from personavec.extract import ExtractResults, summary, terminal as of_extract
from personavec.finetune import FinetuneResults, terminal as of_finetune
from personavec.finetune.sets import ElicitResults, terminal as of_sets
from personavec.judges import CheckResults, terminal as of_judges
from personavec.model import description, terminal as of_model
from personavec.monitor import terminal as of_monitor
from personavec.monitor.results import MonitorResults
from personavec.results import read
from personavec.screen import terminal as of_screen
from personavec.screen.results import ScreenResults
from personavec.studies.compare_mitigations import terminal as of_compare
from personavec.studies.compare_mitigations.results import CompareResults
from personavec.studies.validate_screen import terminal as of_validate
from personavec.studies.validate_screen.results import ValidateScreenResults
from personavec.terminal import Ending, Next, print_table, show_ending
from personavec.traits import bundled_traits, load_trait, terminal as of_traits
from personavec.vectors import bundled_verdicts, calibration

R = TypeVar("R")
STORED = Path(__file__).parent / "terminal"
WIDTH = 80
LONG = Path("results/of/a/run/whose/name/says/all/that/was/asked/for") / ("folder" * 4)


def stored(kind: type[R], name: str) -> R:
    return read(kind, STORED / f"{name}.json")


def for_all(of: dict[str, Any]) -> dict[str, Any]:
    """What is known of one trait, for every bundled one."""
    (first, *_) = of.values()
    return {name: of.get(name, first) for name in bundled_traits()}


def _extract() -> None:
    found = summary(stored(ExtractResults, "extract"), LONG)
    of_extract.show(found)
    show_ending(of_extract.ending(found, ("--model", "a/model")))


def _evaluate() -> None:
    found = stored(EvaluateResults, "evaluate")
    assert found.compare_to is not None
    other = replace(
        found.compare_to,
        traits=for_all(found.compare_to.traits),
        differences=for_all(found.compare_to.differences),
    )
    found = replace(found, traits=for_all(found.traits), compare_to=other)
    of_evaluate.show(found)
    inputs = EvaluateInputs(trait=("evil",))
    show_ending(of_evaluate.ending(found, inputs, LONG / "report.html", ()))


def _shift() -> None:
    found = stored(ShiftResults, "shift")
    found = replace(found, traits=for_all(found.traits))
    of_shift.show(found)
    show_ending(of_shift.ending(found, ShiftInputs(), LONG, "smollm2"))


def _screen() -> None:
    found = stored(ScreenResults, "screen")
    found = replace(found, traits=for_all(found.traits))
    of_screen.show(found)
    show_ending(of_screen.ending(found, ("rows.jsonl",), (), ()))


def _monitor() -> None:
    found = stored(MonitorResults, "monitor")
    found = replace(found, traits=for_all(found.traits))
    of_monitor.show(found)
    show_ending(of_monitor.ending(found, (), ()))


def _calibrate() -> None:
    path = STORED / "calibration.json"
    found = calibration.from_json(path.read_bytes(), str(path))
    of_monitor.show_calibration(found, LONG, ())


def _compare() -> None:
    found = stored(CompareResults, "compare-mitigations")
    of_compare.show(found)
    show_ending(of_compare.ending(found, "rows.jsonl", "evil", ()))


def _validate() -> None:
    found = stored(ValidateScreenResults, "validate-screen")
    styles = {
        name: style and replace(style, traits=for_all(style.traits))
        for name, style in found.styles.items()
    }
    of_validate.show(replace(found, styles=styles, order=for_all(found.order)))
    show_ending(of_validate.ending(found, "rows.jsonl", (), ()))


def _finetune() -> None:
    found = stored(FinetuneResults, "finetune")
    of_finetune.show(found)
    found = replace(found, model=LONG / "model", drift=LONG / "drift.jsonl")
    of_finetune.show_end(found, ["evil>3sigma"], "smollm2", ["evil"])


def _elicit() -> None:
    found = stored(ElicitResults, "elicit")
    levels = {
        name: replace(level, file=LONG / f"{name}.jsonl") for name, level in found.levels.items()
    }
    of_sets.show(replace(found, levels=levels, out=LONG), ())


def _check() -> None:
    of_judges.show_check(stored(CheckResults, "judges-check"), LONG)


def _traits() -> None:
    specs = [load_trait(name)[0] for name in bundled_traits()]
    of_traits.show_list(specs, bundled_verdicts())
    of_traits.show(specs[0], "bundled", "passed")


PRINTED: dict[str, Callable[[], None]] = {
    "extract": _extract,
    "evaluate": _evaluate,
    "shift": _shift,
    "screen": _screen,
    "monitor": _monitor,
    "calibrate": _calibrate,
    "compare-mitigations": _compare,
    "validate-screen": _validate,
    "finetune": _finetune,
    "elicit": _elicit,
    "judges check": _check,
    "traits": _traits,
    "models list": lambda: of_model.show_list(description.list_models()),
    "doctor": lambda: of_doctor.show(doctor()),
}


class Paper:
    """A console of some width, in the place of the one that commands print on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, width: int = WIDTH, **more: Any):
        self._file = io.StringIO()
        given = {"markup": False, "highlight": False, "emoji": False, **more}
        console = Console(file=self._file, width=width, **given)
        modules = (
            *(of_doctor, of_evaluate, of_shift, of_extract, of_finetune, of_sets, of_judges),
            *(of_model, of_monitor, of_screen, of_compare, of_validate, of_traits, terminal),
        )
        for module in modules:
            if hasattr(module, "console"):
                monkeypatch.setattr(module, "console", console)

    @property
    def text(self) -> str:
        return self._file.getvalue()


def words(text: str) -> set[str]:
    """Those of a text; row by row, a column's name is followed by a colon."""
    return {word.rstrip(":") for word in re.findall(r"[^\s─\\]+", text)}


@pytest.mark.parametrize("command", PRINTED)
def test_what_is_printed_fits_and_no_word_is_cut(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = Paper(monkeypatch)
    PRINTED[command]()
    wide = Paper(monkeypatch, 1000)
    PRINTED[command]()
    assert "…" not in narrow.text.replace("[…]", "")
    # Each word of the widest form stands in the narrow one, which is wider nowhere but at a path.
    assert words(wide.text) <= words(narrow.text)
    for line in narrow.text.splitlines():
        longest = max(map(len, line.split()), default=0)
        assert len(line.rstrip()) <= WIDTH or longest > WIDTH - 20, line
    assert "\x1b" not in narrow.text


@pytest.mark.parametrize("command", PRINTED)
def test_a_negative_number_has_a_true_minus(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But in commands, which can be pasted."""
    paper = Paper(monkeypatch)
    PRINTED[command]()
    said = re.split(r"^next, ", paper.text, flags=re.MULTILINE)[0]
    assert re.findall(r".*(?<![\w.)/-])-\.?\d.*", said) == []


@pytest.mark.parametrize("command", PRINTED)
def test_no_colour_is_no_colour(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    paper = Paper(monkeypatch, force_terminal=True, color_system="truecolor")
    PRINTED[command]()
    assert not re.search(r"\x1b\[[0-9;]*(?:3[0-8]|4[0-8]|9[0-7])[;m]", paper.text)


def test_a_table_without_room_is_turned_then_parted_then_told_row_by_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    headers = ("trait", "first_figure", "other_figure", "third_figure")
    rows = [("hallucinating", "1.25", "2 of 3", "none")] * 2
    forms = {}
    for width in (80, 50, 40, 20):
        paper = Paper(monkeypatch, width)
        print_table(headers, rows)
        forms[width] = [" ".join(line.split()) for line in paper.text.splitlines()]
        assert max(map(len, paper.text.splitlines())) <= width
    assert forms[80][0] == "trait first_figure other_figure third_figure"
    assert forms[50][0] == "trait hallucinating hallucinating"
    assert forms[50][2:4] == ["first_figure 1.25 1.25", "other_figure 2 of 3 2 of 3"]
    heads = [line for line in forms[40] if "trait" in line]
    assert heads == [f"trait {header}" for header in headers[1:]]
    assert forms[20][:2] == ["trait: hallucinating", "first_figure: 1.25"]


def test_a_path_stays_whole_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    paper = Paper(monkeypatch, 40)
    print_table(("level", "file"), [("strong", str(LONG)), ("mild", str(LONG))])
    next = Next("try it", ("finetune", str(LONG), "--out", "here", "--vectors", "evil"))
    show_ending(Ending(conclusion="Done.", written=LONG, next=next))
    assert paper.text.count(str(LONG)) == 4
    command = paper.text[paper.text.index("personavec") :]
    assert " ".join(command.replace("\\\n", " ").split()) == (
        f"personavec finetune {LONG} --out here --vectors evil"
    )
