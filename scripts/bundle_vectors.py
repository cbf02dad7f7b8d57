"""Copy extracted vectors into the package: `python scripts/bundle_vectors.py out/vectors`.

Only the vector and its description ship; rollouts, activations and reports stay behind.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from personavec.traits import bundled_traits
from personavec.vectors import DRIFT_FILE, FILE, load_vector

TARGET = Path(__file__).parents[1] / "src" / "personavec" / "bundled" / "vectors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the folder of extractions, one for each trait")
    source = parser.parse_args().source
    for name in bundled_traits():
        load_vector(source / name)  # refuses a damaged one
        (TARGET / name).mkdir(parents=True, exist_ok=True)
        for file in ("vector.safetensors", "vector.json"):
            shutil.copyfile(source / name / file, TARGET / name / file)
        for file in (FILE, DRIFT_FILE):  # measured of the vector before
            (TARGET / name / file).unlink(missing_ok=True)
        print(f"bundled {name}")


if __name__ == "__main__":
    main()
