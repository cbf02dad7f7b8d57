"""What a folder exports can be reached, and no module of it hides an exported name."""

from importlib import import_module
from pathlib import Path

import pytest

import personavec

ROOT = Path(personavec.__file__).parent
FOLDERS = sorted(path.parent.relative_to(ROOT) for path in ROOT.rglob("__init__.pyi"))


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_every_exported_name_is_there_and_is_no_module_by_another_meaning(folder: Path) -> None:
    """Once a submodule is imported, it takes the place of an exported function of its name."""
    name = ".".join(("personavec", *folder.parts))
    for exported in import_module(name).__all__:
        found = getattr(import_module(name), exported)
        is_module = (ROOT / folder / f"{exported}.py").is_file()
        assert not is_module or found is import_module(f"{name}.{exported}")
