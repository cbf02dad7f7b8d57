"""Ask pip whether every extra of a wheel resolves beside what is installed; installs nothing.

python scripts/check_extras.py ENVIRONMENT/bin/python dist/personavec-0.1.0-py3-none-any.whl
"""

from __future__ import annotations

import email
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

#: Tools of the tests, whose versions `make` resolves anyway.
LEFT_OUT = {"test"}


def extras(wheel: Path) -> list[str]:
    """The extras that a wheel provides."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    return [extra for extra in metadata.get_all("Provides-Extra", []) if extra not in LEFT_OUT]


def main() -> None:
    python, wheel = sys.argv[1], Path(sys.argv[2]).absolute()
    for extra in extras(wheel):
        begun = time.monotonic()
        command = ["-m", "pip", "--python", python, "install", "--quiet", "--dry-run"]
        ended = subprocess.run(
            [sys.executable, *command, "--report", "-", f"{wheel}[{extra}]"],
            stdout=subprocess.PIPE,
        )
        if ended.returncode:
            sys.exit(f"personavec[{extra}] does not resolve")
        names = {each["metadata"]["name"] for each in json.loads(ended.stdout)["install"]}
        more = len(names - {"personavec"})
        print(
            f"personavec[{extra}]: {more} more to install, {time.monotonic() - begun:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
