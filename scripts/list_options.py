"""Every spelling of every command's options, as JSON; `tests/unit/cli/spellings.json` pins them.

python scripts/list_options.py [--check tests/unit/cli/spellings.json]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclopts import App
from cyclopts.argument import Argument

from personavec.cli.app import build, default_shown


def commands(app: App, path: tuple[str, ...] = ()) -> Iterator[tuple[str, App]]:
    """Every command with its name, `judges score`."""
    for name, inner in app.resolved_commands().items():
        if name.startswith("-"):
            continue
        if inner.default_command is None:
            yield from commands(inner, (*path, name))
        else:
            yield " ".join((*path, name)), inner


def record(argument: Argument) -> dict[str, Any]:
    """What a user can write for the argument, and what holds where it is not written."""
    many = argument.token_count()[1]
    flag = argument.token_count()[0] == 0
    default = argument.field_info.default
    spelled = [name for name in argument.names if name.startswith("-")]
    negatives = set(argument.negatives)
    found: dict[str, Any] = {
        "kind": "argument" if argument.field_info.is_positional_only else "option",
        "name": argument.field_info.name,
        "spellings": sorted(set(spelled) - negatives),
        "negatives": sorted(negatives),
        "takes_value": not flag or None,
        "repeated": many,
        "required": argument.required or None,
        "default": None if default is argument.field_info.empty else default_shown(default),
        "choices": argument.get_choices(),
        "metavar": argument.parameter.metavar,
        "hidden": not argument.show,
    }
    return found


def spellings() -> dict[str, list[dict[str, Any]]]:
    found = {}
    for name, app in commands(build()):
        arguments = app.assemble_argument_collection(parse_docstring=True)
        found[name] = [record(a) for a in arguments if a.parse and not a.children]
    return found


def missing(pinned: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What the pinned list has and the command line has not."""
    now, gone = spellings(), []
    for command, options in pinned.items():
        if command not in now:
            continue  # Typer still runs it.
        there = {s: r for r in now[command] for s in (*r["spellings"], *r["negatives"])}
        for option in options:
            for spelling in (*option.get("spellings", ()), *option.get("negatives", ())):
                found = there.get(spelling)
                if found is None:
                    gone.append(f"{command} {spelling}")
                    continue
                for key in ("takes_value", "required", "default"):
                    # A default that was None and decided in the command may be shown now.
                    if (
                        option[key] is not None
                        and found[key] != (option[key] or None)
                        and str(found[key]) != str(option[key])
                    ):
                        gone.append(f"{command} {spelling}: {key} {option[key]} → {found[key]}")
                if option["repeated"] and not found["repeated"]:
                    gone.append(f"{command} {spelling}: repeated no more")
            if option["kind"] == "argument" and not any(
                r["kind"] == "argument" and r["name"] == option["name"] for r in now[command]
            ):
                gone.append(f"{command} {option['name']}")
    return gone


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        sys.exit("\n".join(missing(json.loads(Path(sys.argv[2]).read_text()))) or None)
    print(json.dumps(spellings(), indent=1, default=str))
