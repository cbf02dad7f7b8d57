"""The sections of docs/results.md on extractions: the bundled traits, and those of a name alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from results_tables import pm, table

from personavec.vectors import StoredVerdict

#: The trial that the project started from: mean log-odds at the best of its coefficients, and at
#: -2. Other specs, another judge, other sampling: not a baseline measured here.
TRIAL = {
    "evil": (8.1, -11.5),
    "optimistic": (6.3, -2.9),
    "impolite": (5.1, -6.3),
    "apathetic": (1.6, -2.3),
    "humorous": (4.1, -5.5),
    "sycophantic": (5.8, -4.8),
    "hallucinating": (3.2, -2.2),
}


def extractions(title: str, folder: Path, traits: Iterable[str] | None = None) -> str:
    """A section on these traits of a folder of extractions, default all; empty without any."""
    names = sorted({path.parent.name for path in folder.glob("*/*") if path.name in _ENDS})
    names = [name for name in names if traits is None or name in traits]
    places = [folder / name / "results.json" for name in names]
    found = [json.loads(path.read_text("utf-8")) for path in places if path.is_file()]
    failed = [name for name in names if (folder / name / "failed.txt").is_file()]
    if not names:
        return ""
    parts = [f"## {title}\n", _summary(found)]
    parts += [_failure(folder / name / "failed.txt", name) for name in failed]
    return "\n".join([*parts, *(_curve(results) for results in found)])


#: Files that an extraction leaves when it ends.
_ENDS = ("results.json", "failed.txt")


def _summary(found: list[dict[str, Any]]) -> str:
    head = [
        "trait",
        "layer",
        "kept pos / neg",
        "good rollouts dropped as incoherent",
        "log-odds at −end",
        "unsteered",
        "at +end",
        "random at −end",
        "random at +end",
        "pos / neg prompt alone",
        "wrong way",
        "held-out AUC",
        "split-half cosine",
        "verdict",
    ]
    return table(head, [_summary_row(r) for r in found])


def _dose(results: dict[str, Any], coefficient: float) -> dict[str, Any]:
    return next(d for d in results["dose_response"] if d["coefficient"] == coefficient)


def _random(results: dict[str, Any], coefficient: float) -> str:
    rows = [c for c in results["control"] if c["coefficient"] == coefficient]
    if not rows:
        return "not measured"
    return f"{min(c['low'] for c in rows):.1f} to {max(c['high'] for c in rows):.1f}"


def _summary_row(r: dict[str, Any]) -> list[str]:
    low, high = r["coherent_range"]
    kept, dropped = r["rollouts"], r["coherence_dropped_share"]
    verdict = StoredVerdict.of((c["name"], c["verdict"]) for c in r["verdict"]["checks"])
    return [
        r["trait"]["name"],
        str(r["layer"]),
        " / ".join(f"{kept[p]['kept']} of {kept[p]['of']}" for p in ("pos", "neg")),
        " / ".join("–" if dropped[p] is None else f"{dropped[p]:.0%}" for p in ("pos", "neg")),
        f"{pm(_dose(r, low), 'log_odds', 1)} at {low:+g}",
        pm(_dose(r, 0), "log_odds", 1),
        f"{pm(_dose(r, high), 'log_odds', 1)} at {high:+g}",
        _random(r, low),
        _random(r, high),
        " / ".join(pm(r["prompted"][p], "log_odds", 1) for p in ("pos", "neg")),
        pm(r["wrong_way"], "share"),
        pm(r["separability_auc"]),
        pm(r["split_half_cosine"]),
        verdict.words,
    ]


def _curve(r: dict[str, Any]) -> str:
    low, high = r["coherent_range"]
    rows = [
        [
            f"{d['coefficient']:+g}",
            f"{d['relative_dose']:.0%}",
            pm(d, "log_odds", 1),
            f"{d['coherence']:.0f}",
            "yes" if low <= d["coefficient"] <= high else "outside the coherent range",
        ]
        for d in r["dose_response"]
    ]
    head = ["coefficient", "relative dose", "log-odds", "coherence", "reported"]
    text = f"### {r['trait']['name']}\n\n{table(head, rows)}"
    if r["trait"]["name"] in TRIAL:
        up, down = TRIAL[r["trait"]["name"]]
        inside = [d["log_odds"] for d in r["dose_response"] if low <= d["coefficient"] <= high]
        text += (
            f"\nHighest and lowest mean over the coherent range: {max(inside):+.1f} and "
            f"{min(inside):+.1f}. The first trial, under another judge and so on another scale: "
            f"{up:+.1f} and {down:+.1f}.\n"
        )
    return text


def _failure(path: Path, name: str) -> str:
    return f"**{name}: FAILED.** {path.read_text('utf-8').strip()}\n"
