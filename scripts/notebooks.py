"""Run the examples as notebooks and keep what they show: `python scripts/notebooks.py [NAME …]`.

The scripts in `examples/` are the source, in jupytext's percent format. What they write goes to
`out/examples/`, from which a run that was killed continues. What libraries and progress bars print
on stderr is not kept, nor what tells one machine or moment from another.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NOTEBOOKS = EXAMPLES / "notebooks"


def scripts() -> list[Path]:
    """The examples that are notebooks too."""
    return [
        path
        for path in sorted(EXAMPLES.glob("*.py"))
        if path.read_text(encoding="utf-8").startswith("# %%")
    ]


def notebook_of(script: Path) -> Any:
    """The script as a notebook without outputs, with numbered cells: always the same."""
    found = jupytext.read(script)
    found.metadata = nbformat.from_dict(
        {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    for place, cell in enumerate(found.cells):
        cell.id = f"cell-{place}"
        cell.metadata = nbformat.from_dict({})
    return found


def run(script: Path) -> None:
    """Execute the script as a notebook, and write it with its outputs."""
    found = notebook_of(script)
    client = NotebookClient(found, timeout=None, resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    for cell in found.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
            for data in (each["data"] for each in cell.outputs if "data" in each):
                if "text/html" in data:  # Its text is every field.
                    data["text/plain"] = data["text/plain"].partition("(")[0]
    found.metadata.pop("language_info", None)
    NOTEBOOKS.mkdir(exist_ok=True)
    nbformat.write(found, NOTEBOOKS / f"{script.stem}.ipynb")


def main() -> None:
    for script in scripts():
        if not sys.argv[1:] or script.stem in sys.argv[1:]:
            run(script)
            print(f"{script.stem}: written to {NOTEBOOKS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
