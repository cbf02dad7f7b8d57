"""What bounding a projection costs beside subtracting the vector: `python scripts/capping.py OUT`.

Every trait's evaluation questions are answered under its strongest monitoring prompt, with the same
sampling noise steered and unsteered; the packaged capability task and neutral texts are run with
the same steering. What is measured stays in OUT, and a killed run continues with the same command.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import personavec as pv
from personavec.evaluate import capability
from personavec.judges import ContrastJudge
from personavec.model import Action, vector_cap, vector_steering
from personavec.model.engine import Sampling
from personavec.progress import Progress
from personavec.results import dump
from personavec.runs import atomic_write
from personavec.studies import Bench, Measured, answer_tasks, judge_cells, measure
from personavec.studies.compare_mitigations.figures import arm_figures
from personavec.traits import neutral_prompts
from personavec.vectors import bundled_vectors

QUESTIONS, TEXTS = 12, 48


def arms(vector: pv.PersonaVector) -> dict[str, tuple[Action, ...]]:
    """A percentile of ordinary tokens that bounds the projection, or multiples of v."""
    return {
        "cap 99": (vector_cap(vector, 99),),
        "add -1": vector_steering(vector, -1.0),
        "add -2": vector_steering(vector, -2.0),
    }


def bench(loaded: pv.LoadedModel, names: list[str]) -> Bench:
    """What is asked of the model for some traits."""
    specs = [pv.load_trait(name)[0] for name in names]
    questions = {spec.name: spec.questions.evaluation[-QUESTIONS:] for spec in specs}
    return Bench(
        base=loaded,
        vectors=tuple(pv.load_vector(name) for name in names),
        questions=questions,
        tasks=tuple(
            replace(task, system=spec.monitoring[-1])
            for spec in specs
            for task in answer_tasks(spec, questions[spec.name], 1)
        ),
        sampling=Sampling(64, 0.7),
        texts=tuple(neutral_prompts()[:TEXTS]),
        capability=capability.load_tasks([capability.PACKAGED])[0],
        progress=Progress(),
    )


def study(
    loaded: pv.LoadedModel, name: str, unsteered: Measured, out: Path
) -> dict[str, dict[str, Any]]:
    """One trait's figures by arm, the unsteered model among them."""
    vector, own = pv.load_vector(name), bench(loaded, [name])
    cells = {"unsteered": unsteered} | {
        arm: measure(own, loaded, out / name / arm.replace(" ", ""), steering=steering)
        for arm, steering in arms(vector).items()
    }
    judge = ContrastJudge(loaded, wrote_answers=True)
    spec, _ = pv.load_trait(name)
    cells = judge_cells(cells, [spec], judge, out / name / "judged", own.progress)
    # Nothing is finetuned: the unsteered model is what all is compared with.
    same = [cells["unsteered"]]
    return {
        arm: dump(arm_figures(arm, {"base": same, "none": same, arm: [cell]}, vector))
        for arm, cell in cells.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--traits", default=",".join(bundled_vectors()))
    given = parser.parse_args()
    loaded, names = pv.load_model("smollm2"), given.traits.split(",")
    unsteered = measure(bench(loaded, names), loaded, given.out / "unsteered")
    results: dict[str, Any] = {}
    for name in names:
        results[name] = study(loaded, name, unsteered, given.out)
        atomic_write(given.out / "results.json", json.dumps(results, indent=1))
        for arm, found in results[name].items():
            print(f"{name}, {arm}: {json.dumps(found['minus_base']['log_odds'])}", flush=True)


if __name__ == "__main__":
    main()
