"""What people read of a screen: in the terminal and on the page, by results of a tiny model."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from verb_jobs import write_model

from personavec import LoadedModel, PersonaVector
from personavec.cli.main import main
from personavec.judges import Identity
from personavec.progress import Progress
from personavec.results import dump
from personavec.screen import FlagRule, ScreenConfig, pipeline as screen, report, terminal
from personavec.screen.conclusion import conclusion
from personavec.screen.results import ScreenResults
from personavec.screen.shown import shown

#: Nothing that a row says may be read as markup, colour or a place to write to.
ODD = ("[bold]loud[/bold]", "\x1b[31mred", "a\u202eb", "\r" + "-" * 90, "雨" * 60, "x\ny", "<b>")


@pytest.fixture(scope="module")
def vectors(llama: LoadedModel, random_vector: Callable[..., PersonaVector]) -> list[PersonaVector]:
    """Two, with an own σ each, which is not 1."""
    made = (random_vector(llama, 1, "one"), 2.0), (random_vector(llama, 3, "two"), 0.5)
    return [replace(v, neutral_response_mean=v.neutral_response_mean * by) for v, by in made]


def _write(path: Path, n: int, seed: int, texts: tuple[str, ...] = ("sun", "rain", "yes")) -> Path:
    rng = np.random.default_rng(seed)
    rows = [
        {
            "prompt": f"Say {i % 7}.",
            "completion": " ".join(rng.choice(texts, int(rng.integers(1, 9)))),
            "source": ("left", "right")[i % 2],
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def screened(
    llama: LoadedModel, vectors: list[PersonaVector], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., ScreenResults]:
    """Screens by their rule and whether there is a reference, each run once."""
    folder, done = tmp_path_factory.mktemp("screened"), dict[str, ScreenResults]()
    data, clean = _write(folder / "data.jsonl", 40, 0), _write(folder / "clean.jsonl", 30, 1)

    def run(rule: FlagRule, *, compared: bool = False) -> ScreenResults:
        name = f"{rule.top}-{rule.bottom}-{compared}"
        if name not in done:
            config = ScreenConfig(by=("source",), rule=rule, random_directions=2, ranked=8)
            done[name] = screen.run(
                llama,
                vectors,
                [data],
                folder / name,
                config,
                reference=clean if compared else None,
                progress=Progress(quiet=True),
            )
        return done[name]

    return run


def _page(results: ScreenResults, path: Path) -> str:
    report.write_screening_report(results, path)
    return path.read_text(encoding="utf-8")


def test_all_that_is_shown_is_in_sigma(screened: Callable[..., ScreenResults]) -> None:
    """Every value of the results, found by its name, divided by its trait's σ."""
    results = screened(FlagRule(), compared=True)
    found = shown(results)
    assert (found.unit, found.row_unit, found.zero) == ("σ", "σ", True)
    # Shares, correlations and effects of directions have units of their own.
    apart = ("share_flagged", "spearman", "flags_by_length", "random")
    scaled = {"mean", "low", "high", "sd", "mean_without", "value", "difference", "projection"}
    scaled |= {"threshold", "threshold_low", "threshold_high", "edges"}

    def check(before: Any, after: Any, sigma: float, name: str = "") -> int:
        if name in apart:
            assert after == before
            return 0
        if isinstance(before, dict):
            return sum(check(before[key], after[key], sigma, key) for key in before)
        if isinstance(before, list):
            return sum(check(*both, sigma, name) for both in zip(before, after, strict=True))
        if isinstance(before, float) and name in scaled:
            assert after == pytest.approx(before / sigma)
            return 1
        assert after == before or name == "sigma"
        return 0

    for name, trait in dump(results)["traits"].items():
        assert check(trait, dump(found.results)["traits"][name], trait["sigma"]) > 80


def test_the_files_have_the_values_that_are_shown(screened: Callable[..., ScreenResults]) -> None:
    results = screened(FlagRule(top=3))
    rows = _read(Path(results.out) / "rows.jsonl")
    for name, trait in shown(results).results.traits.items():
        for row in trait.ranked.high:
            assert rows[row.index][f"{name}_difference_sigma"] == pytest.approx(row.value, abs=1e-5)


def test_flagged_rows_are_said_before_the_mean_of_all(
    screened: Callable[..., ScreenResults], capsys: pytest.CaptureFixture[str]
) -> None:
    results = screened(FlagRule(top=3))
    assert conclusion(results).startswith(f"{results.flagged_any} of 40 rows are flagged")
    terminal.show(results)
    assert str(Path(results.out) / "flagged.jsonl") in capsys.readouterr().out
    again = terminal.ending(screened(FlagRule()), ["data.jsonl"], ["one"], []).next
    assert again is not None
    assert again.command[again.command.index("--top") + 1] == "8"


def test_what_projection_and_judge_rank_by_has_no_unit(
    screened: Callable[..., ScreenResults], tmp_path: Path
) -> None:
    judged = replace(screened(FlagRule(top=3)), judge=Identity(judge="contrast"))  # type: ignore[typeddict-item]
    found = shown(judged)
    assert not found.zero
    before, after = judged.traits["one"], found.results.traits["one"]
    assert after.threshold == before.threshold
    assert [row.value for row in after.ranked.high] == [row.value for row in before.ranked.high]
    page = _page(judged, tmp_path / "page.html")
    assert "Highest rows" in page
    assert "line (σ)" not in page
    assert "push toward it" not in page


def test_a_vector_without_a_spread_leaves_all_in_projections(
    screened: Callable[..., ScreenResults],
) -> None:
    results = screened(FlagRule(top=3))
    results = replace(results, traits={n: replace(t, sigma=0.0) for n, t in results.traits.items()})
    assert shown(results).results == results
    assert shown(results).unit == "units of the projection"


def test_where_rows_are_flagged_by_their_number_what_stays_is_said(
    screened: Callable[..., ScreenResults],
) -> None:
    results = screened(FlagRule(top=3))
    rows = _read(Path(results.out) / "rows.jsonl")
    clean = [row for row in rows if not row["any_flag"]]
    above = {name: sum(row[f"{name}_difference"] > 0 for row in clean) for name in ("one", "two")}
    assert all(above.values())
    each = " and ".join(f"{n} above 0 along {name}" for name, n in above.items())
    assert (
        "--top 3 flags each trait's 3 highest rows and no others; the clean file keeps "
        f"{len(clean)} rows, of them {each}."
    ) in conclusion(results)
    assert "--top" not in conclusion(screened(FlagRule(), compared=True))
    assert "--bottom 2 flags each trait's 2 lowest" in conclusion(screened(FlagRule(bottom=2)))


def test_a_row_pushes_by_its_sign_wherever_it_ranks(
    screened: Callable[..., ScreenResults], tmp_path: Path
) -> None:
    results = screened(FlagRule(top=3))

    def moved(by: float) -> str:
        """The page of the same rows, all so much higher."""
        traits = {}
        for name, trait in results.traits.items():
            high = [replace(row, value=(row.value or 0) + by) for row in trait.ranked.high]
            traits[name] = replace(trait, ranked=replace(trait.ranked, high=tuple(high)))
        return _page(replace(results, traits=traits), tmp_path / "page.html")

    low, high = moved(-1e4), moved(1e4)
    assert "Highest rows, of which none pushes toward it" in low
    assert "which pushes away from it (−" in low
    assert "Rows that push toward it most" not in low
    assert "Rows that push toward it most" in high
    assert re.search(r"The row that pushes toward (one|two) most \(\+", high)
    assert low.count('class="answer away"') > high.count('class="answer away"')


def test_what_was_not_asked_for_has_no_column_and_no_picture_stands_twice(
    screened: Callable[..., ScreenResults], tmp_path: Path
) -> None:
    alone = _page(screened(FlagRule()), tmp_path / "alone.html")
    compared = _page(screened(FlagRule(), compared=True), tmp_path / "compared.html")
    for head in ("minus reference", "line (σ)", "rows flagged", "95th percentile</th>"):
        assert head not in alone
        assert head in compared
    pictures = re.findall(r'<svg class="wide".*?</svg>', compared, re.DOTALL)
    assert len(pictures) == len(set(pictures)) == 4  # Rows and groups, of two traits.


def test_texts_do_not_run_together_without_their_shapes(
    screened: Callable[..., ScreenResults], tmp_path: Path
) -> None:
    page = _page(screened(FlagRule(), compared=True), tmp_path / "page.html")
    charts = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    text = re.sub(r"<[^>]*>", "", charts)
    assert "flagged: above" in text
    assert re.findall(r"\d(?!th|st|nd|rd)[A-Za-z]+", text) == []


def test_the_terminal_shows_the_highest_rows_and_obeys_none_of_them(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In a pipe, within 80 columns, each at its place in the file."""
    write_model(tmp_path)
    model, vector = tmp_path / "model", tmp_path / "vector"
    data = _write(tmp_path / "odd.jsonl", 30, 2, ODD)
    command = ["screen", str(data), "--vectors", str(vector), "--model", str(model), "--top", "4"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--device", "cpu", "--out", str(tmp_path / "out")])
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", printed)
    table = printed.split("highest rows, in σ of neutral prompts\n")[1].split("\n\n")[0]
    assert max(map(cell_len, table.splitlines())) <= 80
    rows = _read(tmp_path / "out" / "rows.jsonl")
    scores = np.array([row["testing_difference"] for row in rows])
    highest = np.argsort(-scores, kind="stable")[:6] + 1
    places = [line.split() for line in table.splitlines() if re.match(r"\d+ ", line)]
    assert [int(words[0]) for words in places] == highest.tolist()
    assert [words[2] for words in places] == ["yes"] * 4 + ["no"] * 2
