"""The dose-response of finished extractions, judged again without the judge pairs' examples.

    python scripts/without_examples.py out/vectors

The first trial was judged like this. Prints mean log-odds at -2, 0 and the best coherent dose.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import personavec as pv
from personavec.judges import Answer, ContrastJudge
from personavec.rollouts import Rollout
from personavec.rollouts.rollout import iter_rollouts
from personavec.stats import clustered_bootstrap
from personavec.traits import TraitSpec


def bare(spec: TraitSpec) -> TraitSpec:
    pairs = [pair.model_copy(update={"examples": ()}) for pair in spec.judge_instruction]
    return spec.model_copy(update={"judge_instruction": tuple(pairs)})


def cell(judge: ContrastJudge, spec: TraitSpec, rollouts: list[Rollout]) -> str:
    answers = [Answer(r.question, r.response, response_ids=r.response_ids) for r in rollouts]
    scored = [
        (score.log_odds, rollout.question)
        for score, rollout in zip(judge.score(spec, answers), rollouts, strict=True)
        if score.log_odds is not None
    ]
    found = clustered_bootstrap([value for value, _ in scored], [q for _, q in scored])
    return f"{found.value:+.1f} ({found.low:.1f} to {found.high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds the extractions, one for each trait")
    folder = parser.parse_args().folder
    judge = ContrastJudge(pv.load_model("smollm2"), wrote_answers=True)
    print("| trait | -2 | 0 | highest coherent dose |\n| --- | --- | --- | --- |")
    for path in sorted(folder.glob("*/results.json")):
        results = json.loads(path.read_text("utf-8"))
        spec = bare(pv.load_trait(results["trait"]["name"])[0])
        every = list(iter_rollouts(path.parent / "run" / "dose-response" / "generated.jsonl"))
        top = results["coherent_range"][1]
        cells = [
            cell(judge, spec, [r for r in every if f"-c{dose:g}-q" in r.id and r.response_ids])
            for dose in (-2.0, 0.0, top)
        ]
        print(f"| {spec.name} | {cells[0]} | {cells[1]} | {cells[2]} at {top:+g} |", flush=True)


if __name__ == "__main__":
    main()
