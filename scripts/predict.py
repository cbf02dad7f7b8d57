"""Correlate what datasets say before training with what training on them does.

    python scripts/predict.py sets/evil sets/optimistic sets/impolite sets/sums --out out/predict

A SET is a folder that `personavec elicit` wrote; each of its level files is one finetune. Prints
Pearson's r with intervals, as Markdown, from the results that it writes to `--out`. With `--parts
MIXED.jsonl --trait NAME` it finetunes on the high, random and low part of one mixed set instead, by
projection difference: once of all rows, once without those that the judge flags.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from personavec import load_model, load_trait, load_vector
from personavec.finetune import read_training_rows
from personavec.finetune.sets.writing import LEVELS
from personavec.studies.predict import (
    Correlation,
    PartsResults,
    PredictionConfig,
    PredictionDataset,
    run,
    run_parts,
)
from personavec.vectors import bundled_vectors
from personavec.wording import estimated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vectors", default=",".join(bundled_vectors()))
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--parts", type=Path)
    parser.add_argument("--trait")
    given = parser.parse_args()
    loaded = load_model(given.model)
    config = PredictionConfig(rows=given.rows, seed=given.seed)
    if given.parts:
        rows = read_training_rows(given.parts)
        vector, spec = load_vector(given.trait), load_trait(given.trait)[0]
        print(parts_table(run_parts(loaded, rows, vector, spec, given.out, config)))
        return
    names = given.vectors.split(",")
    vectors, specs = [load_vector(n) for n in names], [load_trait(n)[0] for n in names]
    datasets = [dataset(folder, level) for folder in given.sets for level in LEVELS]
    found = run(loaded, [d for d in datasets if d], vectors, specs, given.out, config)
    print(correlations_table(found.correlations))


def dataset(folder: Path, level: str) -> PredictionDataset | None:
    path = folder / f"{level}.jsonl"
    if not path.exists():
        return None
    trait = json.loads((folder / "results.json").read_text("utf-8")).get("trait")
    return PredictionDataset(f"{folder.name}-{level}", read_training_rows(path), trait)


def correlations_table(found: Sequence[Correlation]) -> str:
    lines = ["| traits | of | with | Pearson r | finetunes |", "| --- | --- | --- | --- | --- |"]
    for each in found:
        r = "not measured"
        if each["r"] is not None:
            r = f"{each['r']:.2f} [{each['low']:.2f}, {each['high']:.2f}]"
        names = (name.replace("_", " ") for name in (each["over"], each["of"], each["with"]))
        lines.append(f"| {' | '.join(names)} | {r} | {each['datasets']} |")
    return "\n".join(lines)


def parts_table(found: PartsResults) -> str:
    lines = [
        "| rows | part | projection difference | expression (log-odds) |",
        "| --- | --- | --- | --- |",
    ]
    for each in found.parts:
        shown = estimated(each.expression.estimate("log_odds"))
        lines.append(f"| {each.rows} | {each.part} | {each.projection_difference:.2f} | {shown} |")
    return "\n".join([*lines, "", *found.notes])


if __name__ == "__main__":
    main()
