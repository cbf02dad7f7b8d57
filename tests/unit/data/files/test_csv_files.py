"""CSV: quotes that are closed or not, and any texts."""

from dataclasses import replace
from pathlib import Path

import pytest
from foreign_files import ROW, any_texts, columns_of, written
from hypothesis import HealthCheck, given, settings, strategies as st

from personavec.data import RawRow, raw_rows
from personavec.errors import DataError

SWALLOWED = {
    "to the end": ('a,"b\nc,d\ne,f\n', 2),
    "at the end": ('a,b\nc,"d\n', 3),
    "without a line end": ('a,b\nc,"d', 3),
    "to the next quote": ('a,b\nc,"d\ne,f\n"g, h",i\n', 3),
    "to a quote in a text": ('a,"b\nc,so "called" d\n', 2),
    "after one that is closed": ('"two\nlines","b\nc,d\n', 3),
    "in the header": ("", 1),
}


@pytest.mark.parametrize("case", SWALLOWED)
def test_an_open_quote_in_csv_is_refused_with_its_line(tmp_path: Path, case: str) -> None:
    content, line = SWALLOWED[case]
    path = tmp_path / "a.csv"
    path.write_text('prompt,"completion\na,b\n' if line == 1 else f"prompt,completion\n{content}")
    with pytest.raises(DataError, match=f"line {line}: the quote that is opened there"):
        list(raw_rows(path))


def test_csv_with_quotes_that_are_closed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        'prompt,completion\n"two\n\nlines, and ""more""",b\n'
        '5" disk,"abc"def\n\n  \n"x\ny"\nlast,"one"'
    )
    assert columns_of(path) == [
        {"prompt": 'two\n\nlines, and "more"', "completion": "b"},
        {"prompt": '5" disk', "completion": "abcdef"},
        {"prompt": "  ", "completion": None},
        "over several lines, and fewer fields than the header has",
        {"prompt": "last", "completion": "one"},
    ]


@given(rows=st.lists(st.tuples(any_texts, any_texts), min_size=1, max_size=5))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_csv_of_any_texts_is_read_or_refused(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "a.csv"
    text = "a,b\n" + "".join(f"{a},{b}\n" for a, b in rows)
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        found = list(raw_rows(path))
    except DataError:
        return
    good = [row for row in found if row.error is None] or [RawRow(0, "", 1, ROW)]
    written(tmp_path, path, [replace(row, index=i) for i, row in enumerate(good)], "jsonl")
