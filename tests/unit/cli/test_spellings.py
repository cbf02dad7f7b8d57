"""What a user can write stays: every spelling that the pinned list holds is there."""

import json
import subprocess
import sys
from pathlib import Path

from list_options import missing

PINNED = Path(__file__).with_name("spellings.json")


def test_every_spelling_of_the_pinned_list_is_there() -> None:
    assert missing(json.loads(PINNED.read_text("utf-8"))) == []


def test_help_loads_no_torch() -> None:
    code = """
import sys
from personavec.cli.main import main
for arguments in (["--help"], ["extract", "--help"], ["screen", "--help"]):
    try:
        main(arguments)
    except SystemExit as ended:
        assert not ended.code
assert not {"torch", "transformers"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
