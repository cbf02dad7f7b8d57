"""`--figures` on every verb with a report: real results of a tiny model as files for a paper."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import report_runs
from PIL import Image

from personavec import extras
from personavec.errors import PersonavecError
from personavec.finetune import pipeline as training
from personavec.judges import ContrastJudge
from personavec.model.engine.step_loop import StepLoop
from personavec.report import plots

COMMANDS: dict[str, str] = report_runs.COMMANDS | {
    # An automatic dose has trial runs, and a penalty is drawn as another series.
    "compare-mitigations": "compare-mitigations ROWS --trait SPEC --vectors VECTOR "
    "--mitigation preventative:auto --mitigation steering:-1 --mitigation kl:0.1 --seeds 0 "
    "--epochs 0.5 --questions 2 --max-tokens 3 --no-capability",
}
Record = dict[str, Any]
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    return report_runs.write_inputs(folder, "lamp", ("$a<b>", "lake\nside"))


def call(command: str, inputs: dict[str, str], out: Path) -> Any:
    """Runs a command with `--figures`; returns its exit code."""
    return report_runs.call(
        COMMANDS[command], inputs, out / "run", "--figures", str(out / "figures")
    )


@pytest.fixture(scope="module")
def runs(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a command's results and figures, which is run once."""
    done: dict[str, Path] = {}

    def run(command: str) -> Path:
        if command not in done:
            done[command] = tmp_path_factory.mktemp(command)
            assert not call(command, inputs, done[command])
        return done[command]

    return run


def rows_of(folder: Path, name: str) -> Rows:
    with (folder / "figures" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(row: dict[str, str], *columns: str) -> list[float | None]:
    return [float(row[column]) if row[column] else None for column in columns]


def check_extract(found: Record, folder: Path) -> None:
    rows = rows_of(folder, "dose-response")
    columns = ("coefficient", "log_odds", "low", "high")
    for kind, doses in (("curve", found["dose_response"]), ("control", found["control"])):
        drawn = [numbers(row, *columns) for row in rows if row["kind"] == kind]
        assert drawn == [[dose[column] for column in columns] for dose in doses]
    [prompt] = [row for row in rows if row["series"] == "positive prompt alone"]
    assert numbers(prompt, "log_odds", "low", "high") == [
        found["prompted"]["pos"][name] for name in ("log_odds", "low", "high")
    ]
    counts = [int(row["rollouts"]) for row in rows_of(folder, "rollout-log-odds")]
    assert sum(counts) == sum(map(len, found["log_odds"].values()))


def check_evaluate(found: Record, folder: Path) -> None:
    [row] = rows_of(folder, "differences")
    difference = found["compare_to"]["differences"]["testing"]["log_odds"]
    assert numbers(row, "value", "low", "high") == list(difference.values())
    steered, plain = rows_of(folder, "trait-scores")
    for row, of in ((steered, found["traits"]), (plain, found["compare_to"]["traits"])):
        expected = [of["testing"][name] for name in ("mean", "low", "high")]
        assert numbers(row, "value", "low", "high") == expected


def check_shift(found: Record, folder: Path) -> None:
    tuned, control, beyond, largest = rows_of(folder, "shift")
    own = found["traits"]["testing"]
    for row, of in ((tuned, own), (control, own["control"]), (beyond, own["beyond_control"])):
        expected = [of[name] for name in ("sigma", "sigma_low", "sigma_high")]
        assert numbers(row, "value", "low", "high") == expected
    # Both in standard deviations of neutral prompts, of which the tiny vector's is 1.
    assert float(largest["value"]) == pytest.approx(own["random_largest"], rel=1e-3)


def check_monitor(found: Record, folder: Path) -> None:
    own = found["traits"]["testing"]
    before, answer = rows_of(folder, "readings")
    assert numbers(answer, "value", "low", "high") == [own[n] for n in ("mean", "low", "high")]
    assert numbers(before, "value", "low", "high") == list(own["forecast"].values())
    turns = [row for row in rows_of(folder, "turns-testing") if row["series"] == "answer"]
    expected = [[turn["turn"], *turn["response_mean"].values()] for turn in own["by_turn"]]
    assert [numbers(row, "turn", "sigma", "low", "high") for row in turns] == expected


def check_screen(found: Record, folder: Path) -> None:
    own = found["traits"]["testing"]
    groups = rows_of(folder, "groups-source-testing")
    expected = [[group[n] for n in ("mean", "low", "high")] for group in own["groups"]["source"]]
    assert [numbers(row, "value", "low", "high") for row in groups] == expected
    bins = rows_of(folder, "rows-testing")
    drawn = [int(row["count"]) for row in bins if (row["kind"], row["series"]) == ("bin", "rows")]
    assert drawn == own["histogram"]["counts"]
    [line] = [row for row in bins if row["kind"] == "line"]
    assert float(line["from"]) == own["threshold"]
    [trait] = rows_of(folder, "traits")
    assert float(trait["value"]) == pytest.approx(own["mean"] / own["sigma"])


def check_validate(found: Record, folder: Path) -> None:
    rows = rows_of(folder, "auc")
    methods = found["styles"]["elicited"]["methods"]
    assert [row["label"] for row in rows] == list(found["methods"].values())
    expected = [list(methods[method]["auc"].values()) for method in found["methods"]]
    assert [numbers(row, "value", "low", "high") for row in rows] == expected


def check_compare(found: Record, folder: Path) -> None:
    rows = {row["arm"]: row for row in rows_of(folder, "expression")}
    assert rows.keys() == found["arms"].keys()
    for name, arm in found["arms"].items():
        expected = [arm["expression"][n] for n in ("log_odds", "log_odds_low", "log_odds_high")]
        assert numbers(rows[name], "value", "low", "high") == expected
    assert rows["steering -1.0"]["coefficient"] == "1.0"
    assert rows["base"]["kind"] == "level"


CHECKS: dict[str, Callable[[Record, Path], None]] = {
    "extract": check_extract,
    "evaluate": check_evaluate,
    "shift": check_shift,
    "monitor": check_monitor,
    "screen": check_screen,
    "validate-screen": check_validate,
    "compare-mitigations": check_compare,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_are_those_of_the_results(command: str, runs: Callable[[str], Path]) -> None:
    folder = runs(command)
    CHECKS[command](json.loads((folder / "run" / "results.json").read_text()), folder)


def drawings(folder: Path) -> Iterator[tuple[Path, float]]:
    """Each drawing's file without the ending, and its width in inches."""
    data = sorted((folder / "figures").glob("*.csv"))
    assert data
    for path in data:
        for suffix, width in plots.WIDTHS.items():
            yield path.with_name(path.stem + suffix), width


@pytest.mark.parametrize("command", COMMANDS)
def test_drawings_are_sound(command: str, runs: Callable[[str], Path]) -> None:
    """SVG that parses, with its text as text; both of the width that is meant."""
    for path, width in drawings(runs(command)):
        drawing = ElementTree.fromstring(path.with_suffix(".svg").read_bytes())
        inches = float(drawing.attrib["width"].removesuffix("pt")) / 72
        assert inches == pytest.approx(width, abs=0.01)
        texts = ["".join(each.itertext()).strip() for each in drawing.iter() if "text" in each.tag]
        assert len(texts) > 3, path
        with Image.open(path.with_suffix(".png")) as picture:
            assert picture.width == pytest.approx(width * plots.DPI, abs=2)
            assert picture.height > 200


def test_a_name_of_the_data_is_drawn_as_it_is(runs: Callable[[str], Path]) -> None:
    """No dollar sign begins a formula, no bracket an element."""
    drawing = (runs("screen") / "figures" / "groups-source.svg").read_text()
    assert {"$a&lt;b&gt;", "lake side"} <= set(_texts(drawing))


def _texts(drawing: str) -> Iterator[str]:
    for line in drawing.splitlines():
        if line.strip().startswith("<text"):
            yield line[line.index(">") + 1 : line.rindex("</text>")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_finished_run_is_drawn_without_computing_again(
    command: str,
    runs: Callable[[str], Path],
    inputs: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = runs(command)
    before = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    for path in (folder / "figures").iterdir():
        path.unlink()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished run computes something again")

    monkeypatch.setattr(StepLoop, "submit", refuse)
    monkeypatch.setattr(ContrastJudge, "score", refuse)
    monkeypatch.setattr(training, "train", refuse)
    assert not call(command, inputs, folder)
    after = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert after == before


def test_without_matplotlib_one_line_names_the_extra_before_the_work(
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    assert call("monitor", inputs, tmp_path) == PersonavecError.exit_code
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "pip install 'personavec[figures]'" in line
    assert not (tmp_path / "run").exists()
