"""What bounding a projection costs beside subtracting the vector: `python scripts/capping.py OUT`.

Every trait's evaluation questions are answered under its strongest monitoring prompt, steered and
unsteered; the packaged capability task and neutral texts are run with the same steering. Results go
to OUT as they come, and a killed run continues with the same command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import personavec as pv
from personavec import capability
from personavec.capability import TaskScore
from personavec.evaluate import EvaluateConfig, SteeredBy, Subject
from personavec.expression import bounds
from personavec.model.steering import Action
from personavec.runs import atomic_write
from personavec.traits import neutral_prompts
from personavec.vectors import bundled_vectors

#: A percentile of ordinary tokens that the projection is bounded at, or a multiple of v that is
#: added.
ARMS = {"cap 99": (99.0, 0.0), "add -1": (None, -1.0), "add -2": (None, -2.0)}
QUESTIONS, TEXTS = 12, 48


def expression(loaded: pv.LoadedModel, name: str, arm: str, out: Path) -> dict[str, Any]:
    """What a trait's questions get, steered and not, and the paired difference."""
    spec, _ = pv.load_trait(name)
    found = pv.evaluate.run(
        Subject(loaded, (steered_by(name, arm),)),
        [spec],
        out / name / arm.replace(" ", ""),
        EvaluateConfig(questions=QUESTIONS, system=spec.monitoring[-1]),
        compare_to=Subject(loaded),
    )
    other = found["compare_to"]
    return {
        "unsteered": other["traits"][name],
        "steered": found["traits"][name],
        "difference": other["differences"][name]["log_odds"],
    }


def cost(
    loaded: pv.LoadedModel, steering: Sequence[Action], unsteered: TaskScore | None = None
) -> dict[str, Any]:
    """Capability and perplexity, and the paired difference in capability to the unsteered model."""
    score = capability.run_task(
        loaded, capability.load_tasks([capability.PACKAGED])[0], steering=steering, quiet=True
    )
    texts = neutral_prompts()[:TEXTS]
    return {
        "score": score.as_dict(),
        "capability": bounds(capability.interval(score)),
        "capability_difference": bounds(
            capability.difference(score, unsteered) if unsteered else None
        ),
        "perplexity": bounds(capability.perplexity(loaded, texts, steering=steering)),
    }


def steered_by(name: str, arm: str) -> SteeredBy:
    cap, coefficient = ARMS[arm]
    return SteeredBy(pv.load_vector(name), coefficient, cap=cap)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--traits", default=",".join(bundled_vectors()))
    given = parser.parse_args()
    loaded = pv.load_model("smollm2")
    path = given.out / "results.json"
    done = json.loads(path.read_text("utf-8")) if path.exists() else {"traits": {}}
    if "unsteered" not in done:
        done["unsteered"] = cost(loaded, ())
    unsteered = capability.from_record(done["unsteered"]["score"])
    for name in given.traits.split(","):
        own = done["traits"].setdefault(name, {})
        for arm in ARMS:
            if arm not in own:
                steering = steered_by(name, arm).steering()
                own[arm] = expression(loaded, name, arm, given.out)
                own[arm] |= cost(loaded, steering, unsteered)
                atomic_write(path, json.dumps(done, indent=1))
            print(f"{name}, {arm}: {json.dumps(own[arm]['difference'])}", flush=True)


if __name__ == "__main__":
    main()
