"""Extract many traits with default settings: the bundled ones, or three from a name alone.

    python scripts/extract_all.py bundled out/vectors
    python scripts/extract_all.py unbundled out/unbundled

Names after the folder pick some of them, so that several processes can share the work.

A trait that fails leaves its one-line reason in `failed.txt`, and the others go on. Run again,
finished traits are read back, not extracted again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import personavec as pv
from personavec.extract import run, summary
from personavec.traits import bundled_traits

#: Chosen before any of them was measured; descriptions as a user would type them.
UNBUNDLED = {
    "anxious": "Worries about everything, expects danger, and doubts that anything is safe.",
    "formal": "Uses stiff, official and elaborate language, like a civil servant's letter.",
    "poetic": "Speaks in images and metaphors, with rhythm and lyrical words, like a poem.",
}


def extract(which: str, out: Path, names: Sequence[str] = ()) -> int:
    """Extract these traits, or all; how many failed."""
    traits = dict.fromkeys(bundled_traits()) if which == "bundled" else UNBUNDLED
    traits = {name: traits[name] for name in names or traits}
    loaded = pv.load_model("smollm2")
    failures = 0
    for name, description in traits.items():
        folder = out / name
        spec, origin = pv.load_trait(name, description)
        try:
            found = summary(run(loaded, spec, folder, origin=origin), folder)
        except pv.PersonavecError as error:
            failures += 1
            (folder / "failed.txt").write_text(f"{error}\n", "utf-8")
            print(f"{name}: FAILED: {error}")
            continue
        (folder / "failed.txt").unlink(missing_ok=True)
        print(f"{name}: {found.verdict}, layer {found.layer}")
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["bundled", "unbundled"])
    parser.add_argument("out", type=Path, help="one folder for each trait is written there")
    parser.add_argument("names", nargs="*", help="the traits to extract; all without any")
    given = parser.parse_args()
    failures = extract(given.which, given.out, given.names)
    sys.exit(1 if failures and given.which == "bundled" else 0)


if __name__ == "__main__":
    main()
