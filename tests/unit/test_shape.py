"""The code stays in pieces that a reader can hold in mind."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "personavec"
FILES = sorted(PACKAGE.rglob("*.py"))
#: What stands above a function, or at the top of a file, that is longer for a reason.
LONGER = re.compile(r"^# Over (60|400) lines: \w.+")


def functions(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Of every function: where it is, how many lines it has, whether a reason stands above it."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(mark.lineno for mark in node.decorator_list)])
            reason = bool(LONGER.match(lines[first - 2].strip()))
            place = f"{path.relative_to(PACKAGE)}::{node.name}"
            yield place, (node.end_lineno or 0) - node.lineno + 1, reason


def test_nine_in_ten_functions_fit_on_half_a_screen() -> None:
    lengths = sorted(n for path in FILES for _, n, _ in functions(path))
    assert lengths[len(lengths) * 9 // 10] <= 24


def test_no_function_is_longer_than_a_screen_without_a_reason() -> None:
    long = [
        f"{place}: {n} lines"
        for path in FILES
        for place, n, reason in functions(path)
        if n > 60 and not reason
    ]
    assert not long


def test_no_file_is_longer_than_400_lines_without_a_reason() -> None:
    long = []
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > 400 and not any(LONGER.match(line) for line in lines[:40]):
            long.append(f"{path.relative_to(PACKAGE)}: {len(lines)} lines")
    assert not long


def test_results_are_typed() -> None:
    loose = sum(path.read_text(encoding="utf-8").count("dict[str, Any]") for path in FILES)
    assert loose <= 60


def test_commands_are_short() -> None:
    commands = [path for path in FILES if path.parent.name == "cli"]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in commands)
    assert lines <= 80 * len(commands)
