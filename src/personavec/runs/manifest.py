"""The manifest: records in a run's folder the settings with which the run was begun."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from personavec.errors import DataError, SettingsMismatchError, UsageError
from personavec.plain import parse_json
from personavec.runs.artifacts import atomic_write
from personavec.runs.records import encode
from personavec.runs.storage import storage_errors

#: The settings that determine a run's result, by name, as its manifest records them.
Settings: TypeAlias = dict[str, Any]

MANIFEST = "manifest.json"
#: The format of the files of all runs. A run of another format is not resumed.
FORMAT = 2
#: The manifest's key for the format and the version that began the run.
_BEGUN = "personavec"
_UNSET = object()


def claim(folder: Path, settings: Settings, *, beside: str | None = None) -> None:
    """Tie a folder to the settings of its run, which are recorded in `manifest.json`.

    The first call writes them. It raises UsageError if the folder holds any files, except hidden
    ones and the file named `beside`, since they could be overwritten or mixed up with the run's.
    Later calls raise SettingsMismatchError unless the settings are the same as JSON (a tuple equals
    a list). If another version of this package began the run, a warning is printed on stderr; if
    that version wrote another format, SettingsMismatchError is raised. Hold `lock` around the call
    if two processes may begin the run.
    """
    path = folder / MANIFEST
    begun = {"format": FORMAT, "version": metadata.version("personavec")}
    encoded = encode({_BEGUN: begun, **settings}, path, indent=2)
    try:
        with storage_errors(path):
            found = path.read_bytes()
    except FileNotFoundError:
        _refuse_files_in(folder, beside)
        atomic_write(path, encoded + b"\n")
        return
    old = _manifest(found, path)
    earlier = _begun_by(folder, old.pop(_BEGUN, None))
    new = json.loads(encoded)
    del new[_BEGUN]
    _check_same(folder, old, new)
    if earlier.get("version") != begun["version"]:
        print(
            f"warning: {folder} was begun by personavec {_shown(earlier.get('version'))} and is "
            f"continued with {begun['version']}; results may differ between the two",
            file=sys.stderr,
        )


def amend(folder: Path, changes: Settings) -> None:
    """Record settings by which a claimed run has grown, in place of what they were.

    Call it after `claim`, under the same lock. Raises DataError and StorageError.
    """
    path = folder / MANIFEST
    with storage_errors(path):
        old = _manifest(path.read_bytes(), path)
    atomic_write(path, encode({**old, **changes}, path, indent=2) + b"\n")


def recorded(folder: Path) -> Settings | None:
    """The settings of the run in a folder; None where `claim` recorded none that can be read."""
    try:
        found = parse_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _manifest(found: bytes, path: Path) -> Settings:
    try:
        old = parse_json(found)
    except ValueError:
        old = None
    if not isinstance(old, dict):
        raise DataError(f"{path}: not a JSON object; use another --out, or delete this folder")
    return old


def _begun_by(folder: Path, earlier: Any) -> Settings:
    """The version that began the run. Raises SettingsMismatchError for another format."""
    number = earlier.get("format") if isinstance(earlier, dict) else None
    if number == FORMAT:
        return earlier
    has = "no format number" if number is None else f"format {_shown(number)}"
    raise SettingsMismatchError(
        f"{folder} holds a run of another version of personavec, whose files have {has}; this "
        f"version continues format {FORMAT}; use another --out, or delete this folder"
    )


def _check_same(folder: Path, old: Settings, new: Settings) -> None:
    differences = _differences(_flat(old), _flat(new))
    if differences:
        raise SettingsMismatchError(
            f"{folder} holds a run with other settings: {'; '.join(differences)}; "
            "use another --out, or the same settings to continue that run"
        )


def _refuse_files_in(folder: Path, known: str | None) -> None:
    with storage_errors(folder):
        names = sorted(at.name for at in folder.iterdir()) if folder.is_dir() else []
    if own := [name for name in names if not name.startswith(".") and name != known]:
        raise UsageError(
            f"{folder} holds {own[0]!r} but no {MANIFEST}, so it is not the folder of a run; use "
            "another --out, or an empty folder"
        )


def _flat(value: Any, name: str = "") -> Settings:
    """Nested settings by dotted name."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    flat: Settings = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{name}.{key}" if name else key)
    return flat


def _differences(old: Settings, new: Settings) -> list[str]:
    names = [name for name in old | new if name]
    pairs = [(name, old.get(name, _UNSET), new.get(name, _UNSET)) for name in names]
    return [
        f"{name} was {_shown(before)}, now {_shown(now)}"
        for name, before, now in pairs
        if before != now
    ]


def _shown(value: Any) -> str:
    if value is _UNSET:
        return "not set"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
