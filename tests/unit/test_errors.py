"""The tree of errors is the one drawn, and the base starts without torch."""

import inspect
import os
import re
import subprocess
import sys

import pytest

from personavec import errors
from personavec.errors import PersonavecError, StorageError, UsageError, missing_extra

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, PersonavecError)
]


def test_every_error_is_drawn_in_the_tree() -> None:
    drawn = set(re.findall(r"\b(\w+Error) {2,}", errors.__doc__ or ""))
    assert drawn == {error.__name__ for error in CLASSES}


@pytest.mark.parametrize("error", CLASSES)
def test_the_drawing_names_the_built_in_parent(error: type[PersonavecError]) -> None:
    line = next(
        line
        for line in (errors.__doc__ or "").splitlines()
        if re.search(rf"\b{error.__name__} {{2,}}", line)
    )
    named = re.search(r"also an? (\w+)", line)
    own = [base for base in error.__bases__ if not issubclass(base, PersonavecError)]
    assert ([named.group(1)] if named else []) == [b.__name__ for b in own if b is not Exception]


@pytest.mark.parametrize("error", CLASSES)
def test_message_is_one_line_and_bad_usage_exits_with_2(error: type[PersonavecError]) -> None:
    raised = error("bad row:\n  line 3; delete it")
    assert str(raised) == "bad row: line 3; delete it"
    assert raised.exit_code == (2 if issubclass(error, UsageError) else 1)


def test_storage_error_is_caught_as_the_built_in() -> None:
    with pytest.raises(OSError, match="disk full"):
        raise StorageError("disk full")


def test_missing_extra_gives_the_install_command() -> None:
    assert "pip install 'personavec[vllm]'" in str(missing_extra("vllm"))


@pytest.mark.parametrize("module", ["errors", "runs", "stats"])
def test_base_loads_no_torch(module: str) -> None:
    code = f"import sys, personavec.{module}; print({{'torch', 'transformers'}} & {{*sys.modules}})"
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    loaded = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert loaded == "set()\n"
