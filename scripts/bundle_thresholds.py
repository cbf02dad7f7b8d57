"""Bundle the thresholds that `personavec judges check` fitted.

`python scripts/bundle_thresholds.py out/checks`, a folder with a file of results for each trait.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from personavec import load_trait, results
from personavec.judges import CheckResults
from personavec.judges.thresholds import FORMAT
from personavec.runs import atomic_write

TARGET = Path(__file__).parents[1] / "src" / "personavec" / "bundled" / "thresholds.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="of results, by trait")
    found = []
    for path in sorted(parser.parse_args().source.glob("*.json")):
        check = results.read(CheckResults, path)
        if check.threshold is not None:
            found.append(
                {
                    "trait": check.trait,
                    "judge_pairs": load_trait(check.trait)[0].judge_hash,
                    "judge": check.judge,
                    "threshold": results.dump(check.threshold),
                }
            )
            print(f"{check.trait}: {check.threshold.trait_score:.1f}")
    text = json.dumps({"format": FORMAT, "thresholds": found}, ensure_ascii=False, indent=1)
    atomic_write(TARGET, f"{text}\n")


if __name__ == "__main__":
    main()
