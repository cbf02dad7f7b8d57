"""Do thoughts before answers move the contrast judge? `python scripts/checks_with_thoughts.py`.

Every bundled trait's checks are judged three times: as they are, with a thought of 80 to 200 tokens
in `<think>…</think>` before each answer, and, to see what the thoughts would do, with the same
thought as a part of the answer. Each thought talks over the other answer to its question, which
has the other verdict. Prints AUC with the intervals of `personavec
judges check`, by half.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from results_tables import pm, table

from personavec import LoadedModel, load_model, load_trait
from personavec.judges import ContrastJudge, known_answers
from personavec.runs import atomic_write
from personavec.traits import Check, TraitSpec, bundled_traits

#: In tokens of the judging model.
SHORTEST, LONGEST = 80, 200
ARMS = {
    "as it is": "{answer}",
    "thought": "<think>\n{thought}\n</think>\n\n{answer}",
    "thought, as answer": "{thought}\n\n{answer}",
}


def thoughts(loaded: LoadedModel, spec: TraitSpec) -> list[str]:
    """One for each check, of lengths spread evenly over all that are allowed."""
    found = []
    for number, check in enumerate(spec.checks):
        others = [c for c in spec.checks if c.question == check.question and c.shows != check.shows]
        text = f'The user asks: "{check.question}" I could say this. ' + " ".join(
            f"{other.answer} That is one way to put it." for other in others
        )
        ids = loaded.chat.response_ids(f"{text} " * LONGEST)
        length = SHORTEST + number * (LONGEST - SHORTEST) // max(1, len(spec.checks) - 1)
        found.append(loaded.chat.decode(ids[:length]).strip())
    return found


def study(loaded: LoadedModel, spec: TraitSpec) -> dict[str, Any]:
    """One trait's summaries by arm and half."""
    own, found = thoughts(loaded, spec), {}
    for arm, form in ARMS.items():
        checks = tuple(
            Check(
                question=check.question,
                answer=form.format(thought=thought, answer=check.answer),
                shows=check.shows,
            )
            for check, thought in zip(spec.checks, own, strict=True)
        )
        told = known_answers.run(ContrastJudge(loaded), spec.model_copy(update={"checks": checks}))
        found[arm] = {
            half: {"auc": asdict(summary.auc), "n": summary.n, "thoughts": summary.thoughts}
            for half, summary in told.halves.items()
        }
    lengths = [len(loaded.chat.response_ids(thought)) for thought in own]
    return {"arms": found, "thought_tokens": [min(lengths), max(lengths)]}


def moved(record: dict[str, Any]) -> float:
    """The largest change of a half's AUC by thoughts."""
    arms = record["arms"]
    return max(
        abs(arms["thought"][half]["auc"]["value"] - arms["as it is"][half]["auc"]["value"])
        for half in known_answers.HALVES
    )


def printed(results: dict[str, Any]) -> str:
    rows = [
        [
            name,
            half,
            *(pm(record["arms"][arm][half]["auc"], digits=3) for arm in ARMS),
            "{thoughts} of {n}".format_map(record["arms"]["thought"][half]),
        ]
        for name, record in results.items()
        for half in known_answers.HALVES
    ]
    return table(["trait", "half", *ARMS, "thoughts left out"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--traits", default=",".join(bundled_traits()))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    loaded = load_model(given.model)
    results = {name: study(loaded, load_trait(name)[0]) for name in given.traits.split(",")}
    print(printed(results))
    print(f"AUC moves by at most {max(map(moved, results.values())):.4f}.")
    if given.json:
        atomic_write(given.json, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
