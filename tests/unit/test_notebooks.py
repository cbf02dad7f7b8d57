"""The committed notebooks are the examples, with outputs that fit every machine."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from notebooks import NOTEBOOKS, notebook_of, scripts

NAMES = [script.stem for script in scripts()]
#: A folder of the machine that ran them, or a user's.
_PLACE = re.compile(r"(?:^|[\s'\"(=])/(?:home|root|Users|tmp|work|var|opt|usr)/|\w:\\\\")


@pytest.fixture(params=scripts(), ids=lambda path: path.stem)
def script(request: pytest.FixtureRequest) -> Path:
    return request.param


def written(script: Path) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{script.stem}.ipynb", as_version=4)


def test_there_is_a_notebook_for_every_example_and_no_other() -> None:
    assert NAMES
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


def test_a_notebook_has_the_source_of_its_script(script: Path) -> None:
    ours, source = written(script), notebook_of(script)
    assert [(c.cell_type, c.source) for c in ours.cells] == [
        (c.cell_type, c.source) for c in source.cells
    ]


def test_outputs_are_there_small_and_of_no_machine(script: Path) -> None:
    """Every cell was run, in order; nothing failed, nothing names a folder of a machine."""
    found = written(script)
    cells = [cell for cell in found.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "execute_result"}
    assert any("text/html" in output.get("data", {}) for output in outputs)
    text = json.dumps(outputs, ensure_ascii=False)
    assert not _PLACE.search(text)
    assert len(text) < 100_000
