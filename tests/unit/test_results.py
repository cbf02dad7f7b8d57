from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from personavec import results
from personavec.errors import DataError
from personavec.results import Estimate
from personavec.stats import Interval
from personavec.wording import estimated


@dataclass(frozen=True, kw_only=True)
class Measured:
    format: int = 2
    by_trait: dict[str, Estimate]
    path: Path
    share: float | None
    control: Estimate | None = field(default=None, metadata=results.OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class First:
    format: int = 1
    steps: int


def measured() -> Measured:
    estimate = Estimate.of(Interval(np.float64(1.5), 1.25, float("inf")))
    return Measured(by_trait={"evil": estimate}, path=Path("a/b"), share=float("nan"))


def test_a_result_is_dumped_with_its_format_and_null_for_what_is_not_finite() -> None:
    assert results.dump(measured()) == {
        "format": 2,
        "by_trait": {"evil": {"value": 1.5, "low": 1.25, "high": None}},
        "path": "a/b",
        "share": None,
    }


def test_an_optional_field_is_left_out_where_it_is_none() -> None:
    whole = replace(measured(), control=Estimate(2.0))
    assert results.dump(whole)["control"] == {"value": 2.0, "low": None, "high": None}
    assert "control" not in results.dump(measured())


def test_a_file_of_results_is_read_back(tmp_path: Path) -> None:
    results.write(tmp_path / "results.json", measured())
    found = results.read(Measured, tmp_path / "results.json")
    assert results.dump(found) == results.dump(measured())
    assert found.path == Path("a/b")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"format": 1}', "has format 1; this version reads format 2"),
        ("{}", "has format 1; this version reads format 2; write it again"),
        ("[2]", "no JSON object"),
        ("{", "results.json"),
        ('{"format": 2, "by_trait": {}, "share": 1}', "path"),
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=why):
        results.read(Measured, tmp_path / "results.json")


def test_a_file_of_before_the_numbers_is_of_format_1(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"steps": 3}', encoding="utf-8")
    assert results.read(First, path) == First(steps=3)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"results\.json is damaged \(steps: .*\); delete it"
    ) as lacking:
        results.read(First, path, "delete it")
    assert "\n" not in str(lacking.value)


def test_an_estimate_in_words() -> None:
    found = Estimate(1.5, -1.2, 1.8)
    assert estimated(found, "+.1f") == "+1.5 [−1.2, +1.8]"
    assert estimated(found, ".1f", two_lines=True) == "1.5\n−1.2 to 1.8"
    assert estimated(Estimate(-0.01, -0.2, 0.04), "+.1f") == "+0.0 [−0.2, +0.0]"
    assert estimated(Estimate(0.25), ".0%") == "25%"
    assert estimated(Estimate.of(None), missing="not measured") == "not measured"
