"""The stages of `make bundle`: what each runs, what it depends on, and what it ships.

A stage's commands work in the output folder, where each resumes by itself; `ship` then copies what
the package keeps, and writes the stage's section of docs/results.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results_checks import checks
from results_extractions import extractions
from results_monitoring import alarms, forecasts
from results_page import with_section
from stamps import BUNDLED
from unbundled import UNBUNDLED

from personavec import load_trait, results
from personavec.judges import CheckResults
from personavec.judges.thresholds import FORMAT
from personavec.monitor import ordinary
from personavec.runs import atomic_path, atomic_write, read_json
from personavec.traits import bundled_traits
from personavec.vectors import DRIFT_FILE, FILE, PersonaVector, load_vector

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/results.md"
PICTURE = "docs/picture.png"
#: Norms that differ by less than this share of their spread are kept as they are: so much comes
#: from the rounding of another processor.
_SAME_NORMS = 0.05


@dataclass(frozen=True)
class Run:
    """Where a run of the driver reads and writes, and with what."""

    out: Path
    root: Path = ROOT
    ordinary: Path | None = None
    """A log of ordinary conversations."""
    jobs: int = 2
    """Commands at a time."""

    @property
    def vectors(self) -> Path:
        """The folder of the vectors that ship."""
        return self.root / BUNDLED / "vectors"


Commands = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Stage:
    """One stage: its commands by trait, or one by the stage's name."""

    name: str
    depends: tuple[str, ...]
    """Names of `fingerprints.py`."""
    commands: Callable[[Run], Commands]
    ship: Callable[[Run], Sequence[str]]
    """Writes what is kept; the files' names in the repository, and docs/results.md#TITLE."""
    needs: tuple[str, ...] = ()
    """Stages that must fit before."""
    folder: str | None = None
    """What the commands resume from, a folder of the output folder."""
    by_trait: bool = False
    """It has a folder for each command."""
    lacks: Callable[[Run], str | None] = lambda run: None
    """Why it cannot run here; None where it can."""


def _personavec(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "personavec", *map(str, arguments)]


def _script(name: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]


# norms


def _norms(run: Run) -> Commands:
    return {"norms": _script("bundle_norms.py", run.out / "coherence_norms.json")}


def _ship_norms(run: Run) -> Sequence[str]:
    made, kept = run.out / "coherence_norms.json", BUNDLED / "coherence_norms.json"
    target = run.root / kept
    if not target.is_file() or not same_norms(_json(made), _json(target)):
        copy(made, target)
    return [str(kept)]


def same_norms(new: Any, old: Any) -> bool:
    """Whether two records of norms differ by no more than rounding does."""
    if {**new, "norms": 0, "model": 0} != {**old, "norms": 0, "model": 0}:
        return False
    a, b = new["norms"], old["norms"]
    if set(a["mean"]) != set(b["mean"]):
        return False
    return all(
        abs(a[of][name] - b[of][name]) <= _SAME_NORMS * b["spread"][name]
        for name in b["mean"]
        for of in ("mean", "spread")
    )


# vectors


def _vectors(run: Run) -> Commands:
    return {
        trait: _personavec("extract", "--trait", trait, "--out", run.out / "vectors" / trait)
        for trait in bundled_traits()
    }


def _ship_vectors(run: Run) -> Sequence[str]:
    names = []
    for trait in bundled_traits():
        source, target = run.out / "vectors" / trait, run.vectors / trait
        vector = load_vector(source)  # refuses a damaged one
        _drop_measurements(target, vector)
        for file in ("vector.safetensors", "vector.json"):
            copy(source / file, target / file)
            names.append(str(BUNDLED / "vectors" / trait / file))
    text = extractions("Bundled traits", run.out / "vectors", bundled_traits())
    return [*names, _write(run, text)]


def _drop_measurements(folder: Path, vector: PersonaVector) -> None:
    """Remove what was measured of another vector than the one that comes."""
    for file in (FILE, DRIFT_FILE, ordinary.FILE):
        path = folder / file
        if path.is_file() and _json(path).get("vector") != vector.hash:
            path.unlink()


# calibrations, readings, limits


def _calibrations(run: Run) -> Commands:
    return {
        trait: _personavec(
            "calibrate", "--vectors", run.vectors / trait, "--out", run.out / "calibrations" / trait
        )
        for trait in bundled_traits()
    }


def _ship_calibrations(run: Run) -> Sequence[str]:
    names = list(_ship_measurements(run, run.out / "calibrations", FILE))
    found = [_json(run.out / "calibrations" / trait / FILE) for trait in bundled_traits()]
    return [*names, _write(run, forecasts(found))]


def _ship_measurements(run: Run, source: Path, file: str) -> Iterator[str]:
    for trait in bundled_traits():
        copy(source / trait / file, run.vectors / trait / file)
        load_vector(run.vectors / trait)  # refuses what was measured of another vector
        yield str(BUNDLED / "vectors" / trait / file)


def _readings(run: Run) -> Commands:
    return {"readings": _script("bundle_ordinary.py", run.out / "readings")}


def _ship_readings(run: Run) -> Sequence[str]:
    return list(_ship_measurements(run, run.out / "readings", ordinary.FILE))


def _limits(run: Run) -> Commands:
    folders = ("--out", run.out / "monitor-ordinary", "--fit-limits", run.out / "limits")
    vectors = ",".join(str(run.vectors / trait) for trait in bundled_traits())
    return {"limits": _personavec("monitor", run.ordinary, "--vectors", vectors, *folders)}


def _ship_limits(run: Run) -> Sequence[str]:
    names = list(_ship_measurements(run, run.out / "limits", DRIFT_FILE))
    return [*names, _write(run, alarms(_json(run.out / "monitor-ordinary" / "results.json")))]


def _no_log(run: Run) -> str | None:
    """That there is no log, and what becomes of the limits."""
    if run.ordinary is not None:
        return None
    there = [trait for trait in bundled_traits() if (run.vectors / trait / DRIFT_FILE).is_file()]
    gone = [trait for trait in bundled_traits() if trait not in there]
    kept = f"the limits of {', '.join(gone)} are gone, as their vectors are new"
    return f"give ORDINARY=FILE, a log; {kept if gone else 'the shipped limits stay'}"


# checks, unbundled, picture


def _checks(run: Run) -> Commands:
    return {
        trait: _personavec(
            "judges", "check", "--trait", trait, "--out", run.out / "checks" / f"{trait}.json"
        )
        for trait in bundled_traits()
    }


def _ship_checks(run: Run) -> Sequence[str]:
    paths = [run.out / "checks" / f"{trait}.json" for trait in bundled_traits()]
    found = [results.read(CheckResults, path) for path in paths]
    record = {
        "format": FORMAT,
        "thresholds": [
            {
                "trait": check.trait,
                "judge_pairs": load_trait(check.trait)[0].judge_hash,
                "judge": check.judge,
                "threshold": results.dump(check.threshold),
            }
            for check in found
            if check.threshold is not None
        ],
    }
    name = BUNDLED / "thresholds.json"
    atomic_write(run.root / name, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return [str(name), _write(run, checks([_json(path) for path in paths]))]


def _unbundled(run: Run) -> Commands:
    return {name: _script("unbundled.py", run.out / "unbundled", name) for name in UNBUNDLED}


def _ship_unbundled(run: Run) -> Sequence[str]:
    text = extractions("Traits from a name alone", run.out / "unbundled", UNBUNDLED)
    return [_write(run, text)]


def _picture(run: Run) -> Commands:
    return {"picture": _script("picture.py", run.out / "picture.png")}


def _ship_picture(run: Run) -> Sequence[str]:
    copy(run.out / "picture.png", run.root / PICTURE)
    return [PICTURE]


def copy(source: Path, target: Path) -> None:
    """Copy a file, aside and renamed; the same bytes are left alone."""
    data = source.read_bytes()
    if not target.is_file() or target.read_bytes() != data:
        with atomic_path(target) as aside:
            aside.write_bytes(data)


def _write(run: Run, section: str) -> str:
    """Put a section into the page; its name."""
    page = run.root / PAGE
    text = page.read_text("utf-8")
    atomic_write(page, with_section(text, section))
    return f"{PAGE}#{section.splitlines()[0].lstrip('# ')}"


def _json(path: Path) -> Any:
    return read_json(path, "delete it, and run `make bundle` again")


#: What the contrast judge's scores depend on, and what answers of the model do.
_JUDGE, _MODEL = ("judge", "coherence"), ("model", "sampling", "neutral")

STAGES = (
    Stage("norms", ("model", "neutral", "numbers"), _norms, _ship_norms),
    Stage(
        "vectors",
        ("specs", *_MODEL, *_JUDGE, "extract"),
        _vectors,
        _ship_vectors,
        needs=("norms",),
        folder="vectors",
        by_trait=True,
    ),
    Stage(
        "calibrations",
        ("specs", "monitoring", "vectors", *_MODEL, *_JUDGE, "calibrate"),
        _calibrations,
        _ship_calibrations,
        needs=("norms", "vectors"),
        folder="calibrations",
        by_trait=True,
    ),
    Stage("readings", ("vectors", "dialogues", "model"), _readings, _ship_readings, ("vectors",)),
    Stage(
        "limits",
        ("vectors", "model"),
        _limits,
        _ship_limits,
        needs=("vectors",),
        folder="monitor-ordinary",
        lacks=_no_log,
    ),
    Stage(
        "checks", ("judge_pairs", "answers", "model", *_JUDGE), _checks, _ship_checks, ("norms",)
    ),
    Stage(
        "unbundled",
        ("unbundled", *_MODEL, *_JUDGE, "extract"),
        _unbundled,
        _ship_unbundled,
        needs=("norms",),
        folder="unbundled",
        by_trait=True,
    ),
    Stage("picture", ("doses",), _picture, _ship_picture, ("vectors",)),
)
