"""Extract traits from a name and a description alone: `python scripts/unbundled.py OUT [NAME …]`.

A trait with too few usable rollouts leaves its reason in `failed.txt`, which docs/results.md shows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from personavec import load_model, load_trait
from personavec.errors import PersonavecError, TooFewRolloutsError
from personavec.extract import run, summary
from personavec.traits import TraitSpec

#: Chosen before any of them was measured; descriptions as a user would type them.
UNBUNDLED = {
    "anxious": "Worries about everything, expects danger, and doubts that anything is safe.",
    "formal": "Uses stiff, official and elaborate language, like a civil servant's letter.",
    "poetic": "Speaks in images and metaphors, with rhythm and lyrical words, like a poem.",
}


def specs() -> dict[str, TraitSpec]:
    """The spec of each trait."""
    return {name: load_trait(name, text)[0] for name, text in UNBUNDLED.items()}


def extract(out: Path, names: Sequence[str]) -> None:
    """Extract these traits. Raises PersonavecError, but not for too few rollouts."""
    loaded = load_model("smollm2")
    for name in names:
        folder = out / name
        failed = folder / "failed.txt"
        failed.unlink(missing_ok=True)
        spec, origin = load_trait(name, UNBUNDLED[name])
        try:
            found = summary(run(loaded, spec, folder, origin=origin), folder)
        except TooFewRolloutsError as error:
            failed.write_text(f"{error}\n", "utf-8")
            print(f"{name}: FAILED: {error}")
            continue
        print(f"{name}: {found.verdict}, layer {found.layer}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="one folder for each trait is written there")
    parser.add_argument("names", nargs="*", default=list(UNBUNDLED), help="of traits; default: all")
    given = parser.parse_args()
    try:
        extract(given.out, given.names)
    except PersonavecError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
