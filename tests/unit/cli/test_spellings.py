"""What a user can write stays: every spelling that the pinned list holds is there."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent.parent


def test_every_spelling_of_the_pinned_list_is_there():
    sys.path.insert(0, str(HERE.parent / "scripts"))
    from list_options import missing

    assert missing(json.loads((HERE / "spellings.json").read_text())) == []


def test_help_loads_no_torch():
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
