"""personavec doctor"""

from __future__ import annotations

from personavec.cli.groups import PrintOptions
from personavec.results import dump


def command(*, output: PrintOptions = PrintOptions()) -> None:
    """Show versions, device, processor, caches and extras; put it into reports of faults.

    Example: `personavec doctor`. It names no user and no key, and loads no model.
    """
    from personavec.doctor import run
    from personavec.doctor.terminal import show

    found = run()
    output.tell(dump(found), lambda: show(found))
