"""Remake all that the package ships of the embedded model: `make bundle`.

    python scripts/bundle.py OUT [--ordinary FILE] [--jobs N] [--stage NAME] [--all]

Stages whose stamp fits are left out. A killed run continues with the same command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import personavec

if __name__ == "__main__":
    # Before torch and transformers are imported: threads that wait leave the core to others, as
    # `personavec` has it, and no bar tears the lines apart.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TQDM_DISABLE", "1")

from bundle_commands import run_all, say
from bundle_stages import ROOT, STAGES, Run, Stage
from fingerprints import depends
from stamps import (
    FORMAT,
    Stamp,
    check_format,
    differences,
    hash_of,
    why_stale,
    write_stamp,
)

from personavec.errors import PersonavecError
from personavec.rollouts.estimate import duration
from personavec.runs import atomic_write, lock_file, read_json

#: What an earlier stage may still change, by name.
_MADE_HERE = ("vectors", "doses", "coherence")


def bundle(
    stages: Sequence[Stage], run: Run, *, everything: bool = False, only: Sequence[str] = ()
) -> bool:
    """Run the stages whose stamps do not fit, or all; whether none of them failed.

    `only` names those to look at. Nothing runs where folders were begun with what has changed
    since; they are named.
    """
    chosen = [stage for stage in stages if not only or stage.name in only]
    stale = {stage.name: why(stage, run) for stage in chosen}
    if refused := [
        line for stage in chosen if stale[stage.name] and (line := _refused(stage, run, early=True))
    ]:
        say("\n".join(refused))
        return False
    failed = [stage.name for stage in chosen if not _one(stage, stages, run, everything)]
    if failed:
        say(f"failed: {', '.join(failed)}; run the same command again to continue")
    return not failed


def why(stage: Stage, run: Run) -> list[str]:
    """What of a stage no longer fits its stamp."""
    return why_stale(run.root, stage.name, depends(run.root, stage.depends))


def _one(stage: Stage, stages: Sequence[Stage], run: Run, everything: bool) -> bool:
    """Run one stage, unless it fits or cannot run; False if it failed or has to wait."""
    reasons = why(stage, run)
    if not reasons and not everything:
        say(f"{stage.name}: fits, not run")
        return True
    if lacks := stage.lacks(run):
        say(f"{stage.name}: NOT RUN: {lacks}")
        return True
    needed = [each for each in stages if each.name in stage.needs]
    if waits := [each.name for each in needed if why(each, run)]:
        say(f"{stage.name}: NOT RUN: it needs {', '.join(waits)}, which does not fit")
        return False
    if refused := _refused(stage, run):
        say(refused)
        return False
    say(f"{stage.name}: {_shown(reasons) or 'asked for'}")
    started, on = time.monotonic(), depends(run.root, stage.depends)
    _begin(run.out, stage.name, on)
    if not _made(stage, run):
        return False
    try:
        names = stage.ship(run)
    except (PersonavecError, OSError) as error:
        say(f"{stage.name}: FAILED: {error}")
        return False
    wrote = {name: hash_of(run.root, name) or "" for name in names}
    write_stamp(run.root, stage.name, Stamp(on, wrote))
    say(f"{stage.name}: bundled in {duration(time.monotonic() - started)}")
    return True


def _made(stage: Stage, run: Run) -> bool:
    commands = stage.commands(run)
    logs = run.out / "logs"
    return not run_all(stage.name, commands, logs=logs, root=run.root, jobs=run.jobs)


def _shown(reasons: Sequence[str]) -> str:
    more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return ", ".join(reasons[:3]) + more


# What the folders of the output folder were begun with, in its bundle.json


def _begun(out: Path) -> dict[str, Any]:
    path = out / "bundle.json"
    if not path.is_file():
        return {}
    record = read_json(path, "delete the output folder")
    check_format(record, path)
    return record["begun"]


def _begin(out: Path, stage: str, on: Mapping[str, Any]) -> None:
    record = {"format": FORMAT, "begun": {**_begun(out), stage: on}}
    atomic_write(out / "bundle.json", json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def _refused(stage: Stage, run: Run, *, early: bool = False) -> str | None:
    """The line that says which folders to delete; `early` leaves out what may still be made."""
    begun = _begun(run.out).get(stage.name)
    if begun is None or stage.folder is None:
        return None
    now = depends(run.root, stage.depends)
    found = [
        name
        for name in differences(begun, now)
        if not (early and name.partition(".")[0] in _MADE_HERE)
    ]
    places = {name: _place(stage, run, name) for name in found}
    there = {name: place for name, place in places.items() if _holds_files(place)}
    if not there:
        return None
    folders = sorted({str(place) for place in there.values()})
    return (
        f"{stage.name}: {_shown([*there])} changed since it was begun: delete {' '.join(folders)}, "
        "or use another output folder"
    )


def _place(stage: Stage, run: Run, changed: str) -> Path:
    """The folder that a change makes useless: the stage's, or that of one trait."""
    place = run.out / str(stage.folder)
    trait = changed.partition(".")[2]
    return place / trait if stage.by_trait and trait in stage.commands(run) else place


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_file() for path in folder.rglob("*"))


def main() -> None:
    names = [stage.name for stage in STAGES]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder in which the runs are kept")
    parser.add_argument("--ordinary", type=Path, help="a log of ordinary conversations, for limits")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time; default: 2")
    parser.add_argument("--stage", nargs="+", choices=names, default=(), help="these stages alone")
    parser.add_argument("--all", action="store_true", help="run stages whose stamps fit as well")
    given = parser.parse_args()
    if Path(personavec.__file__).resolve().parents[2] != ROOT:
        sys.exit(f"error: {personavec.__file__} is imported: set PYTHONPATH={ROOT / 'src'}")
    if given.ordinary is not None and not given.ordinary.is_file():
        sys.exit(f"error: --ordinary {given.ordinary} is not a file")
    log = given.ordinary.resolve() if given.ordinary else None
    run = Run(given.out.resolve(), ordinary=log, jobs=max(1, given.jobs))
    try:
        with lock_file(run.out / "bundle.json"):
            done = bundle(STAGES, run, everything=given.all, only=given.stage)
    except PersonavecError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to continue")
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
