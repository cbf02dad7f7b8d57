"""Write docs/results.md from finished extractions: `make results`.

Every figure in its tables is printed from a file that a command of this repository wrote.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from results_checks import checks
from results_finetuning import finetuning
from results_monitoring import monitoring
from results_screening import datasets, detection, logistic
from results_tables import pm, table

DOCS = Path(__file__).parents[1] / "docs"

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the folder that holds the runs' folders")
    parser.add_argument(
        "--only-checks", action="store_true", help="replace the section on known answers alone"
    )
    given = parser.parse_args()
    out, page = given.out, DOCS / "results.md"
    told = checks([json.loads(p.read_text("utf-8")) for p in sorted(out.glob("checks/*.json"))])
    if given.only_checks:
        page.write_text(_with_section(page.read_text("utf-8"), told), "utf-8")
        return
    bundled, unbundled = out / "vectors", out / "unbundled"
    pages = [HEAD, told]
    for title, folder in (("Bundled traits", bundled), ("Traits from a name alone", unbundled)):
        found = _all_results(folder)
        failed = sorted(p.parent.name for p in folder.glob("*/failed.txt"))
        if found or failed:
            pages += [f"## {title}\n", _summary(found)]
            pages += [_failure(folder / name / "failed.txt", name) for name in failed]
            pages += [_curve(results) for results in found]
    pages += [
        detection(_results(out / "validate-screen")),
        logistic(_results(out / "validate-screen-logistic")),
        datasets(_results(out / "screen-chats")),
        finetuning(
            _all_results(out / "compare"), _results(out / "predict"), _all_results(out / "parts")
        ),
        monitoring(
            _all_results(out / "calibrations", "calibration.json"),
            _results(out / "monitor-ordinary"),
            _results(out / "drift-study"),
            _results(out / "capping"),
            _results(out, "soak.json"),
        ),
    ]
    text = "\n".join(pages)
    page.write_text(text, "utf-8")
    print(text)


def _with_section(page: str, section: str) -> str:
    """The page with `section` in place of its own section of that heading."""
    heading = section.splitlines()[0]
    before, found, after = page.partition(f"{heading}\n")
    assert found, f"no section '{heading}'"
    return before + section + after[after.index("\n## ") :]


def _all_results(folder: Path, name: str = "results.json") -> list[dict[str, Any]]:
    return [json.loads(p.read_text("utf-8")) for p in sorted(folder.glob(f"*/{name}"))]


def _results(folder: Path, name: str = "results.json") -> dict[str, Any] | None:
    path = folder / name
    return json.loads(path.read_text("utf-8")) if path.exists() else None


HEAD = """# Results on the embedded model

SmolLM2-135M-Instruct on two processor cores, written by `make results` from the runs of
`make vectors`, `make unbundled` and `make checks`. Log-odds are in nats over the first 64 response
tokens, judged by the contrast judge with prompts and examples that elicited nothing; intervals are
95%, from a bootstrap clustered by question. Steered answers have no system prompt and answer
evaluation questions that neither made the vector nor selected its layer. "Random" is the range of
the random directions' 95% intervals, norms equal to the vector's. The verdict is that of the
report's four checks; a failed one is printed as failed.

The specs of the bundled traits hold examples, in eliciting pairs and, others, in judge pairs. Specs
that are built from a name alone have none: their judge is much weaker (see [LOG.md](LOG.md)), and
the log-odds of the two kinds are not on one scale.
"""


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
    verdict = r["verdict"]["verdict"]
    others = [f"{c['verdict']}: {c['name']}" for c in r["verdict"]["checks"]]
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
        "; ".join(each for each in others if not each.startswith("passed")) or verdict,
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


if __name__ == "__main__":
    main()
