"""Draw docs/steer.svg and docs/screen.svg: what two commands print, run here and now.

    python scripts/panels.py

Both run on the embedded model. Texts are those that the commands print on this machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).parents[1] / "docs"
WIDTH = 92
PANELS = {
    "steer": ["steer", "How was your day?", "--vectors", "optimistic"],
    "screen": [
        "screen",
        "bundled:impolite",
        "--vectors",
        "impolite",
        "--by",
        "shows",
        "--top",
        "10",
    ],
}
#: How a live display begins its next frame: it erases the lines of the last one, upwards.
_ERASED = re.compile(r"(?:\x1b\[1A|\x1b\[2K|\r)*\x1b\[2K(?:\x1b\[1A|\x1b\[2K|\r)*")
#: Fonts are not fetched from elsewhere.
_FONTS = re.compile(r"@font-face \{\{.*?\}\}", re.DOTALL)


def main() -> None:
    for name, arguments in PANELS.items():
        printed = run(arguments)
        console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))  # noqa: SIM115
        quoted = " ".join(f'"{a}"' if " " in a else a for a in arguments)
        console.print(f"[bold]$ personavec {quoted}[/bold]\n", highlight=False)
        console.print(Text.from_ansi(printed))
        target = DOCS / f"{name}.svg"
        console.save_svg(
            str(target), title=f"personavec {arguments[0]}", unique_id=name,
            code_format=_FONTS.sub("", CONSOLE_SVG_FORMAT),
        )  # fmt: skip
        print(target)


def run(arguments: list[str]) -> str:
    """What a command prints in colour, the last frame of what is written before one's eyes."""
    environment = {
        **os.environ,
        "FORCE_COLOR": "1",
        "COLUMNS": str(WIDTH),
        "TERM": "xterm-256color",
    }
    with tempfile.TemporaryDirectory() as folder:
        printed = subprocess.run(
            [sys.executable, "-m", "personavec", *arguments],
            check=True, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True,
        ).stdout  # fmt: skip
    frames = _ERASED.split(printed)
    first = frames[0].split("\n\n")[0] + "\n\n" if len(frames) > 1 else ""
    return (first + frames[-1]).replace("\x1b[?25h", "").replace("\x1b[?25l", "").rstrip()


if __name__ == "__main__":
    main()
