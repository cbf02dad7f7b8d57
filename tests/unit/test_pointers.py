"""What the documentation says of the code is there: files, folders, functions."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "personavec"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "LOG.md"),
]

#: `extract/pipeline.py`, `vectors/estimators.py::mean_difference`
_FILE = re.compile(r"`([\w./-]+\.py)(?:::([\w.]+))?`")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[\w-]+)?\)")


def named(path: Path) -> set[str]:
    """Functions and classes of a file, methods as `Class.method`, and its constants."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if hasattr(inner, "name")}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_functions_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path, name in _FILE.findall(text):
        places = [place / path for place in (PACKAGE, PACKAGE.parent, ROOT)]
        # A bare name stands for the file of that name in every verb's folder.
        places += PACKAGE.rglob(path) if "/" not in path else ()
        file = next((place for place in places if place.is_file()), None)
        assert file is not None, f"{page.name} names {path}"
        assert not name or name in named(file), f"{page.name} names {path}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
