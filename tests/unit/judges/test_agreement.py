"""Agreement of two judges, against scikit-learn, scipy and counting."""

import csv
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from personavec.cli.main import main
from personavec.errors import DataError, UsageError
from personavec.judges import compare_file
from personavec.judges.agreement import agreement
from personavec.judges.results import Undefined


def scores(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    a = rng.uniform(0, 100, n).round()
    b = np.clip(a + rng.normal(0, 25, n), 0, 100).round()
    return a, b, [f"q{i // 4}" for i in range(n)]


@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_other_libraries(seed: int) -> None:
    a, b, clusters = scores(seed)
    found = agreement(a, b, clusters)
    pairs = [
        (i, j)
        for i, j in combinations(range(len(a)), 2)
        if clusters[i] == clusters[j] and a[i] != a[j]
    ]
    alike = [0.5 if b[i] == b[j] else float((a[i] > a[j]) == (b[i] > b[j])) for i, j in pairs]
    expected = {
        "agreement": np.mean((a > 50) == (b > 50)),
        "kappa": cohen_kappa_score(a > 50, b > 50),
        "auc": roc_auc_score(a > 50, b),
        "spearman": spearmanr(a, b).statistic,
        "preference": np.mean(alike),
    }
    for name, value in expected.items():
        assert getattr(found, name).value == pytest.approx(value), name
        assert getattr(found, name).low < value < getattr(found, name).high


def test_intervals_cover_the_truth_and_widen_with_clusters() -> None:
    """Four equal rows a question are one row: the interval must not take them for four."""
    a, b, _ = scores(5, 40)
    once = agreement(a, b, list(range(40))).agreement
    fourfold = agreement(np.repeat(a, 4), np.repeat(b, 4), np.repeat(range(40), 4).tolist())
    assert fourfold.agreement.value == once.value
    assert fourfold.agreement.low == pytest.approx(once.low)
    assert fourfold.agreement.high == pytest.approx(once.high)


def test_the_same_judge_agrees_with_itself_and_its_reverse_does_not() -> None:
    a, _, clusters = scores(1)
    same, reverse = agreement(a, a, clusters), agreement(a, 100 - a, clusters)
    for name in ("agreement", "kappa", "auc", "spearman", "preference"):
        assert getattr(same, name).value == pytest.approx(1)
    assert reverse.spearman.value == pytest.approx(-1)
    assert reverse.preference.value == reverse.auc.value == 0


def test_what_is_undefined_says_why() -> None:
    found = agreement(np.full(6, 90.0), np.linspace(0, 100, 6), list("aabbcc"))
    assert found.agreement.value == pytest.approx(0.5)
    for name in ("auc", "spearman", "preference"):
        assert isinstance(getattr(found, name), Undefined)
        assert getattr(found, name).value is None
    assert isinstance(found.spearman, Undefined)
    assert "undefined" in found.spearman.why


ROWS: list[dict[str, Any]] = [
    {"question": f"q{i // 2}", "answer": text, "a": float(a), "b": float(b)}
    for i, (text, a, b) in enumerate(
        [
            ("None", 10, 20),
            ("N/A", 90, 5),
            ("", 80, 70),
            ("fine", 30, 35),
            ("null", 60, 70),
            ("good", 20, 40),
        ]
    )
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_format_says_the_same_and_the_texts_of_missing_values_are_answers(
    tmp_path: Path, suffix: str
) -> None:
    found = compare_file(write(tmp_path / f"rows{suffix}", ROWS), ["a", "b"])
    (pair,) = found.pairs
    assert (pair.n, pair.without_both_scores) == (6, 0)
    assert pair.agreement.value == pytest.approx(5 / 6)
    assert pair.preference.value == pytest.approx(2 / 3)
    assert found.clustered_by == "question"
    worst = pair.disagreements[0]
    assert (worst["row"], worst["answer"]) == (2, "N/A")
    assert [d["row"] for d in pair.disagreements] == [2, 6, 1, 3, 5, 4]


def test_cells_without_a_score_are_counted(tmp_path: Path) -> None:
    rows = [*ROWS, *({**ROWS[0], "b": v} for v in (None, "", "N/A", "n/a", float("nan"), True))]
    (pair,) = compare_file(write(tmp_path / "rows.jsonl", rows), ["a", "b"]).pairs
    assert (pair.n, pair.without_both_scores) == (6, 6)


def test_three_columns_make_three_pairs_and_without_questions_rows_are_drawn(
    tmp_path: Path,
) -> None:
    a, b, _ = scores(2, 30)
    rows = [{"a": x, "b": y, "c": 100 - x} for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    found = compare_file(write(tmp_path / "rows.csv", rows), ["a", "b", "c"])
    assert [pair.columns for pair in found.pairs] == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert found.clustered_by is None
    assert found.pairs[1].preference.value == 0


@pytest.mark.parametrize(
    ("columns", "change", "error", "message"),
    [
        (["a"], {}, UsageError, "two columns"),
        (["a", "a"], {}, UsageError, "two columns"),
        (["a", "z"], {}, DataError, "no column 'z'.*--columns"),
        (["a", "b"], {"b": 130}, DataError, "row 1: 'b' holds 130; scores go from 0 to 100"),
        (["a", "b"], {"b": -1}, DataError, "rescale"),
    ],
)
def test_bad_input_names_the_remedy(
    tmp_path: Path, columns: list[str], change: dict[str, Any], error: Any, message: str
) -> None:
    rows = [{**ROWS[0], **change}, *ROWS[1:]]
    with pytest.raises(error, match=message):
        compare_file(write(tmp_path / "rows.jsonl", rows), columns)


def test_the_command_prints_figures_and_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path / "rows.csv", ROWS))
    with pytest.raises(SystemExit):
        main(["judges", "compare", path, "--columns", "a,b", "--json"])
    assert json.loads(capsys.readouterr().out)["rows"] == 6
    with pytest.raises(SystemExit):
        main(["judges", "compare", path, "--columns", "a,b"])
    printed = capsys.readouterr().out
    for text in ("Spearman", "kappa", "N/A"):
        assert text in printed
