"""The public names are documented, and what the documentation names is there."""

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import personavec as pv

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "LOG.md"),
]
LIBRARY = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
PUBLIC: list[str] = vars(pv)["__all__"]
#: `extract.run(loaded, spec, out, config=None)` at the beginning of a table's row.
_SIGNATURE = re.compile(r"^\| `([\w.]+)(\(.*?\))` \|", re.MULTILINE)
#: The first cell of every row of the table of public names.
_CELL = re.compile(r"^\| (`[^|]+) \|", re.MULTILINE)
_NAME = re.compile(r"`([\w.]+)")
#: `pv.extract.run`, `personavec.screen.ScreenConfig`, but no file such as `personavec.whl`.
_DOTTED = re.compile(r"\b(?:pv|personavec)((?:\.[A-Za-z_]\w*)+)(?!\.?\w)")
_FILES = {".whl", ".toml"}
#: `.model`, `.tokenizer` beside a class in the table.
_MEMBERS = re.compile(r"^\| `(\w+)` \| ((?:`\.\w+`(?:, )?)+) \|", re.MULTILINE)


def found(dotted: str) -> Any:
    """What `.extract.run` names in the package. Raises AttributeError."""
    target: Any = pv
    for part in dotted.strip(".").split("."):
        if isinstance(target, ModuleType) and not hasattr(target, part):
            try:
                import_module(f"{target.__name__}.{part}")
            except ImportError as error:
                raise AttributeError(f"{target.__name__} has no {part}") from error
        target = getattr(target, part)
    return target


def methods(kind: type) -> Iterator[tuple[str, Any]]:
    """Methods and properties that a class of ours defines for others."""
    for name, member in vars(kind).items():
        if not name.startswith("_") and isinstance(member, property | classmethod | staticmethod):
            yield name, member.fget if isinstance(member, property) else member.__func__
        elif not name.startswith("_") and inspect.isfunction(member):
            yield name, member


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    listed = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in listed]


def test_the_library_page_names_all_that_is_public_and_nothing_else() -> None:
    named = {name for cell in _CELL.findall(LIBRARY) for name in _NAME.findall(cell)}
    assert {name.partition(".")[0] for name in named} == set(PUBLIC)
    assert all(found(name) is not None for name in named)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_is(name: str) -> None:
    target = getattr(pv, name)
    documented = [(name, target)]
    if inspect.ismodule(target):
        documented.append((f"{name}.run", vars(target).get("run") or target.run))
    elif inspect.isclass(target):
        documented += methods(target)
    generated = f"{name}("  # What `dataclass` writes where a class says nothing.
    for place, each in documented:
        text = (vars(each).get("__doc__") if inspect.isclass(each) else each.__doc__) or ""
        assert text.strip(), f"{place} has no docstring"
        assert not text.startswith(generated), f"{place} has no docstring"


def test_signatures_of_the_library_page_are_those_of_the_code() -> None:
    """The page may leave out keywords that have a default."""
    listed = _SIGNATURE.findall(LIBRARY)
    assert len(listed) > 15
    for name, arguments in listed:
        names: dict[str, Any] = {}
        exec(f"def shown{arguments}: ...", names)
        shown, actual = parameters(names["shown"]), parameters(found(name))
        assert [p for p in actual if p in shown] == shown, name
        left_out = [p for p in actual if p not in shown]
        assert all(p[1] is inspect.Parameter.KEYWORD_ONLY for p in left_out), name


def test_members_that_the_library_page_lists_are_there() -> None:
    listed = _MEMBERS.findall(LIBRARY)
    assert listed
    for name, cell in listed:
        kind = getattr(pv, name)
        there = set(dir(kind)) | set(inspect.get_annotations(kind))
        assert set(re.findall(r"`\.(\w+)`", cell)) <= there, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_package_that_a_page_shows_exist(page: Path) -> None:
    for dotted in _DOTTED.findall(page.read_text(encoding="utf-8")):
        if dotted not in _FILES:
            found(dotted)


@pytest.mark.parametrize("dotted", [".extract.rum", ".load_vectors", ".screen.ScreenConfigs", ".x"])
def test_a_wrong_name_is_noticed(dotted: str) -> None:
    assert len(_DOTTED.findall(LIBRARY)) > 10  # The pages' names are found at all.
    with pytest.raises(AttributeError):
        found(dotted)
