"""Stamps of what is bundled: what each stage of `make bundle` depended on, and what it wrote.

They are in `bundled/stamps.json`: {"format": 1, "stages": {NAME: {"depends": ..., "wrote": ...}}}.
`depends` holds small values by name (`fingerprints.py`), `wrote` a hash of every file that the
stage wrote into the repository, or of the figures of a section, as docs/results.md#TITLE.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from results_page import figures_hash, section

from personavec.errors import DataError
from personavec.runs import atomic_write, read_json

FORMAT = 1
BUNDLED = Path("src", "personavec", "bundled")
FILE = BUNDLED / "stamps.json"
#: What a processor's rounding moves, by how much it may; all else must be equal.
TOLERANCES = {"judge": 0.02, "numbers": 1e-4}


@dataclass(frozen=True)
class Stamp:
    """What a stage depended on, by name, and the hash of each file that it wrote."""

    depends: Mapping[str, Any]
    wrote: Mapping[str, str]


def read_stamps(root: Path) -> dict[str, Stamp]:
    """The stamps by stage; none without a file. Raises DataError for a newer format."""
    path = root / FILE
    if not path.is_file():
        return {}
    record = read_json(path, "restore it, or delete it and run `make bundle`")
    check_format(record, path)
    return {name: Stamp(**stamp) for name, stamp in record["stages"].items()}


def check_format(record: Mapping[str, Any], path: Path) -> None:
    """Raise DataError for a file that another version wrote."""
    if (found := record.get("format")) != FORMAT:
        raise DataError(f"{path} is of format {found}, this version reads {FORMAT}: update it")


def write_stamp(root: Path, stage: str, stamp: Stamp) -> None:
    """Put the stamp in place of the stage's last one."""
    stages = {**read_stamps(root), stage: stamp}
    record = {"format": FORMAT, "stages": {name: asdict(each) for name, each in stages.items()}}
    atomic_write(root / FILE, json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def why_stale(root: Path, stage: str, depends: Mapping[str, Any]) -> list[str]:
    """What of a stage no longer fits its stamp: names of changes; none if it fits."""
    stamp = read_stamps(root).get(stage)
    if stamp is None:
        return ["never run"]
    found = [f"{name} changed" for name in differences(stamp.depends, depends)]
    for name, digest in stamp.wrote.items():
        now = hash_of(root, name)
        if now != digest:
            found.append(f"{name} is missing" if now is None else f"{name} changed")
    return found


def complaints(root: Path, wanted: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for every stage that no longer fits, from what each depends on now."""
    stale = {stage: why_stale(root, stage, on) for stage, on in wanted.items()}
    return [
        f"bundled '{stage}' is stale ({', '.join(found)}): run `make bundle`"
        for stage, found in stale.items()
        if found
    ]


def hash_of(root: Path, name: str) -> str | None:
    """The hash of a file, or of the figures of a section; None where there is none."""
    file, _, title = name.partition("#")
    path = root / file
    if not path.is_file():
        return None
    if not title:
        return digest(path.read_bytes())
    text = section(path.read_text("utf-8"), title)
    return None if text is None else figures_hash(text)


def digest(data: bytes) -> str:
    """A short hash."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def plain(value: Any) -> Any:
    """The value as JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


def differences(old: Any, new: Any, name: str = "", tolerance: float = 0.0) -> list[str]:
    """Dotted names of the values that differ; floats within the tolerance of their name do not."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{name}.{key}" if name else str(key)
            parts = (old.get(key), new.get(key), inner, TOLERANCES.get(inner, tolerance))
            found += differences(*parts) if key in old and key in new else [inner]
        return found
    return [] if _same(old, new, tolerance) else [name]


def _same(old: Any, new: Any, tolerance: float) -> bool:
    if isinstance(old, Sequence) and isinstance(new, Sequence) and not isinstance(old, str):
        pairs = zip(old, new, strict=False)
        return len(old) == len(new) and all(_same(*pair, tolerance) for pair in pairs)
    if tolerance and isinstance(old, int | float) and isinstance(new, int | float):
        return math.isclose(old, new, rel_tol=0, abs_tol=tolerance)
    return old == new
