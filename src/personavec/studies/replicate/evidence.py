"""Evidence: the tables of finished stages, kept where the repository keeps them.

A stage's folder among the evidence holds its manifest, its typed result, a CSV for each table, the
SVG of its figures, and the files that later stages read. Where the manifest fits, the stage is
finished: its folder is copied back and nothing is run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from personavec.report.plots import as_csv
from personavec.runs import MANIFEST, Settings, atomic_write, recorded
from personavec.studies.replicate.stage import Stage, tables

RESULTS = "results.json"
#: What is kept of every stage, as patterns.
_ALWAYS = (MANIFEST, RESULTS, "*.csv", "*.svg")


def fits(folder: Path, manifest: Settings) -> bool:
    """Whether a folder holds the finished stage of this manifest."""
    found = recorded(folder)
    if found is None or not (folder / RESULTS).is_file():
        return False
    found.pop("personavec", None)
    return found == json.loads(json.dumps(manifest))


def write_tables(folder: Path, result: Any) -> None:
    """A CSV for each table of a stage's result."""
    for name, rows in tables(result).items():
        atomic_write(folder / f"{name}.csv", as_csv(rows))


def keep(stage: Stage[Any], folder: Path, evidence: Path, model: str) -> None:
    """Copy what is kept of a finished stage; the manifest comes last.

    Evidence is published: a model on disk is named without the folder that it lies in.
    """
    named = json.dumps(model, ensure_ascii=False).encode()
    bare = json.dumps(Path(model).name, ensure_ascii=False).encode()
    for path in _kept(stage, folder):
        content = path.read_bytes()
        if path.suffix == ".json" and Path(model).exists():
            content = content.replace(named, bare)
        _write(content, evidence / stage.name / path.relative_to(folder))


def holds_files(stage: Stage[Any], evidence: Path) -> bool:
    """Whether the evidence has what later stages read of a stage; large files may be left out."""
    own = evidence / stage.name
    return stage.files_kept and all(any(own.glob(pattern)) for pattern in stage.kept)


def restore(stage: Stage[Any], evidence: Path, folder: Path) -> None:
    """Copy a stage's evidence into its folder of the run; the manifest comes last."""
    own = evidence / stage.name
    for path in _kept(stage, own):
        _write(path.read_bytes(), folder / path.relative_to(own))


def _kept(stage: Stage[Any], folder: Path) -> list[Path]:
    found = {path for pattern in (*_ALWAYS, *stage.kept) for path in folder.glob(pattern)}
    return sorted(found, key=lambda path: (path.name == MANIFEST, path))


def _write(content: bytes, target: Path) -> None:
    if not target.exists() or target.read_bytes() != content:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, content)
