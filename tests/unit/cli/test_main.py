"""What the command line sets before any library is imported."""

import os
import subprocess
import sys

import pytest

from personavec.cli.main import main


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_that_wait_leave_the_core_unless_the_environment_says_otherwise(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # So that it is as before after the test.
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ.get("GOMP_SPINCOUNT") == spins


@pytest.mark.parametrize("debug", [False, True])
def test_messages_of_libraries_are_for_debug(debug: bool) -> None:
    """Their warnings and logged ones; our own warnings stay."""
    code = f"""
import logging, warnings
from personavec.cli import main
main._quiet_libraries({debug})
def warn(module, text):
    own = {{"__name__": module, "text": text, "warnings": warnings}}
    exec("warnings.warn(text, FutureWarning)", own)
warn("transformers.training_args", "another name")
warn("personavec.model", "of our own")
logging.getLogger("huggingface_hub.utils._http").warning("retrying")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ("another name" in done.stderr) == debug
    assert ("retrying" in done.stderr) == debug
    assert "of our own" in done.stderr
